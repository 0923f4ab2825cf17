from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicate.errors import CorruptionError, InvalidInputError
from replicate.objects import canonical, model
from replicate.objects.ids import Kind, object_id
from replicate.objects.model import (
    MAX_COMMIT_BYTES,
    MAX_LISTED_PATHS,
    Commit,
    Mode,
    PathList,
    TreeEntry,
    check_name,
    commit_id,
    decode_commit,
    decode_tree,
    directory_size,
    encode_commit,
    encode_tree,
)
from tests.builders import entry, many_entries, refusal, some_id
from tests.strategies import commits, trees

ROOT = Commit(tree=some_id("tree"), author="ada@engine", time_ns=1, nonce=bytes(16))
CHECKPOINT = Commit(
    tree=some_id("tree"), author="ada@engine", time_ns=2, parents=(some_id("root"),), experiment=some_id("root"), seq=1
)


# -- trees


@given(trees)
def test_a_tree_comes_back_in_name_order(entries: list[TreeEntry]) -> None:
    again = decode_tree(encode_tree(entries), "a tree")
    assert again == sorted(entries, key=lambda one: one.name)
    assert all(type(one.mode) is Mode for one in again)


@given(trees, st.randoms(use_true_random=False))
def test_equal_trees_have_equal_ids(entries: list[TreeEntry], random: Any) -> None:
    shuffled = entries[:]
    random.shuffle(shuffled)
    assert encode_tree(shuffled) == encode_tree(entries)


@given(trees, trees)
def test_different_trees_have_different_ids(first: list[TreeEntry], second: list[TreeEntry]) -> None:
    equal = sorted(first) == sorted(second)
    ids = [object_id(Kind.TREE, encode_tree(entries)) for entries in (first, second)]
    assert (ids[0] == ids[1]) == equal


@given(st.binary(max_size=60))
def test_bytes_are_either_a_tree_or_refused(data: bytes) -> None:
    error = refusal(lambda: decode_tree(data, "some bytes"))
    if error is None:
        assert encode_tree(decode_tree(data, "some bytes")) == data
    else:
        assert error.where == "some bytes"
        assert error.message.startswith("some bytes is damaged: ")


@given(trees.filter(bool), st.data())
def test_a_flipped_bit_gives_another_tree_or_is_refused(entries: list[TreeEntry], data: st.DataObject) -> None:
    encoded = bytearray(encode_tree(entries))
    bit = data.draw(st.integers(0, len(encoded) * 8 - 1))
    encoded[bit // 8] ^= 1 << bit % 8
    if refusal(lambda: decode_tree(bytes(encoded), "some bytes")) is None:
        assert encode_tree(decode_tree(bytes(encoded), "some bytes")) == encoded


@pytest.mark.parametrize("depth", [2, 511, 512, 1_025, 100_000])
def test_deep_bytes_are_no_tree(depth: int) -> None:
    with pytest.raises(CorruptionError, match=r"^some bytes is damaged: "):
        decode_tree(b"\x91" * depth + b"\x90", "some bytes")


@pytest.mark.parametrize("name", [b"", b".", b"..", b"/", b"a/b", b"a\0", b"n" * 256])
def test_a_name_that_would_lead_elsewhere_is_not_allowed(name: bytes) -> None:
    why = check_name(name)
    assert why in ("a name has 1 to 255 bytes", "a name has no '/' and no NUL, and is not '.' or '..'")
    with pytest.raises(InvalidInputError) as caught:
        encode_tree([entry(name)])
    assert str(caught.value) == f"{name!r} cannot be saved: {why}"


def test_a_name_stands_in_a_directory_once() -> None:
    with pytest.raises(InvalidInputError) as caught:
        encode_tree([entry("a"), entry("b"), entry("a", b"other")])
    assert str(caught.value) == "b'a' is in the directory twice"


def test_a_directory_can_be_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "MAX_TREE_ENTRIES", 1_000)
    whole = encode_tree(many_entries(1_000))
    assert len(decode_tree(whole, "a tree")) == 1_000
    with pytest.raises(InvalidInputError) as caught:
        encode_tree(many_entries(1_001))
    assert str(caught.value) == "a directory has 1,001 entries; at most 1,000 can be saved"
    monkeypatch.setattr(model, "MAX_TREE_ENTRIES", 999)
    with pytest.raises(CorruptionError, match="not a tree"):
        decode_tree(whole, "a tree")
    monkeypatch.setattr(model, "MAX_TREE_ENTRIES", 1_000)
    monkeypatch.setattr(model, "MAX_OBJECT_BYTES", len(whole) - 1)
    with pytest.raises(InvalidInputError) as caught:
        encode_tree(many_entries(1_000))
    assert str(caught.value) == "a directory of 1,000 entries is too large to be saved"


def test_a_directorys_size_is_that_of_its_files_and_folders_without_links() -> None:
    entries = [
        TreeEntry(b"file", Mode.FILE, 10, some_id("1")),
        TreeEntry(b"program", Mode.EXECUTABLE, 200, some_id("2")),
        TreeEntry(b"link", Mode.SYMLINK, 3_000, some_id("3")),
        TreeEntry(b"folder", Mode.DIRECTORY, 40_000, some_id("4")),
    ]
    assert directory_size(entries) == 40_210
    assert directory_size([]) == 0


# -- commits


@given(commits())
def test_a_commit_comes_back(commit: Commit) -> None:
    data = encode_commit(commit)
    again = decode_commit(data, "a commit")
    assert encode_commit(again) == data
    assert again.is_root == commit.is_root
    plain: dict[str, Any] = {"params": {}, "metrics": {}, "extra": {}}  # these may hold NaN, which equals nothing
    assert replace(again, **plain) == replace(commit, **plain)
    for kept, given_ in ((again.params, commit.params), (again.metrics, commit.metrics), (again.extra, commit.extra)):
        assert canonical.encode(dict(kept)) == canonical.encode(dict(given_))


@given(commits(), st.data())
def test_a_flipped_bit_gives_another_commit_or_is_refused(commit: Commit, data: st.DataObject) -> None:
    encoded = bytearray(encode_commit(commit))
    bit = data.draw(st.integers(0, len(encoded) * 8 - 1))
    encoded[bit // 8] ^= 1 << bit % 8
    error = refusal(lambda: decode_commit(bytes(encoded), "some bytes"))
    if error is not None:
        assert error.message.startswith("some bytes is damaged: ")
    assert commit_id(bytes(encoded)) != commit_id(encode_commit(commit))


def test_two_equal_starts_are_two_experiments() -> None:
    first, second = (encode_commit(replace(ROOT, nonce=nonce)) for nonce in (bytes(16), b"\1" * 16))
    assert commit_id(first) != commit_id(second)


@pytest.mark.parametrize("commit", [ROOT, CHECKPOINT])
def test_keys_of_later_versions_are_kept(commit: Commit) -> None:
    extra = {"later": {"a": [1, b"\0"]}, "\uffff": None}
    again = decode_commit(encode_commit(replace(commit, extra=extra)), "a commit")
    assert again == replace(commit, extra=extra)


def test_keys_that_belong_to_the_other_kind_are_kept_too() -> None:
    root = decode_commit(canonical.encode({**canonical.decode(encode_commit(ROOT), ""), "metrics": 1}), "a commit")
    assert (root.extra, dict(root.metrics)) == ({"metrics": 1}, {})


def test_tags_are_stored_sorted_and_once() -> None:
    assert decode_commit(encode_commit(replace(ROOT, tags=("b", "a", "b"))), "a commit").tags == ("a", "b")


@pytest.mark.parametrize(
    ("commit", "change", "why"),
    [
        (ROOT, {"tags": ["b", "a"]}, "tags are not sorted, or repeated"),
        (ROOT, {"tags": ["a", "a"]}, "tags are not sorted, or repeated"),
        (ROOT, {"tags": None}, "tags is not a list of text"),
        (ROOT, {"name": None}, "name is missing or of a wrong type"),
        (ROOT, {"unstable": None}, "unstable is not {count, paths}"),
        (ROOT, {"skipped": {"count": 1, "paths": ["a"]}}, "skipped is not {count, paths}"),
        (ROOT, {"primary_metric": None}, "primary_metric is not a list of text"),
        (ROOT, {"primary_metric": ["loss", "min"]}, "primary_metric is not [name, goal]"),
        (ROOT, {"params": {"a": [b""]}}, "params holds bytes"),
        (ROOT, {"nonce": bytes(15)}, "a root has a nonce of 16 bytes"),
        (ROOT, {"parents": None}, "parents is missing or of a wrong type"),
        (ROOT, {"kind": "branch"}, "kind 'branch' is not known"),
        (ROOT, {"v": True}, "not a commit"),
        (ROOT, {"time": True}, "time is missing or of a wrong type"),
        (CHECKPOINT, {"step": 1 << 63}, "step 9223372036854775808 does not fit into 64 bits"),
        (CHECKPOINT, {"seq": 0}, "a checkpoint has a parent and a seq of 1 or more"),
        (CHECKPOINT, {"parents": []}, "a checkpoint has a parent and a seq of 1 or more"),
        (CHECKPOINT, {"parents": [bytes(31)]}, "an id has a wrong length"),
        (CHECKPOINT, {"metrics": [1]}, "metrics is missing or of a wrong type"),
    ],
)
def test_a_commit_with_a_wrong_key_is_refused(commit: Commit, change: dict[str, Any], why: str) -> None:
    data = canonical.encode({**canonical.decode(encode_commit(commit), ""), **change})
    with pytest.raises(CorruptionError) as caught:
        decode_commit(data, "commit abc")
    assert str(caught.value) == f"commit abc is damaged: {why}"
    assert caught.value.where == "commit abc"


def test_a_commit_that_is_too_large_names_the_largest_value() -> None:
    metrics = {"loss": 0.5, "history": [0.5] * 6_000, "note": "x" * 100}
    with pytest.raises(InvalidInputError) as caught:
        encode_commit(replace(CHECKPOINT, metrics=metrics))
    assert caught.value.message == (
        "a commit holds at most 49,152 bytes of params, metrics and the like, this one has 54,317; "
        "the largest is metrics['history'] with 54,003"
    )
    assert caught.value.hint == "save large values as a file of the checkpoint"
    with pytest.raises(InvalidInputError) as caught:
        encode_commit(replace(ROOT, command="x" * MAX_COMMIT_BYTES))
    assert "; the largest is command with 49,155" in caught.value.message


def test_the_largest_commit_is_48_kib() -> None:
    room = MAX_COMMIT_BYTES - len(encode_commit(replace(ROOT, command="x" * 40_000))) + 40_000
    largest = encode_commit(replace(ROOT, command="x" * room))
    assert len(largest) == MAX_COMMIT_BYTES
    assert decode_commit(largest, "a commit").command == "x" * room
    with pytest.raises(InvalidInputError):
        encode_commit(replace(ROOT, command="x" * (room + 1)))


@pytest.mark.parametrize(
    "commit",
    [replace(ROOT, params={"a": (1,)}), replace(CHECKPOINT, metrics={"a": {1}}), replace(ROOT, params={"a": 1 << 64})],
)
def test_values_that_cannot_be_stored_are_refused(commit: Commit) -> None:
    with pytest.raises(InvalidInputError):
        encode_commit(commit)


def test_of_many_paths_the_first_are_listed() -> None:
    paths = [b"%03d" % number for number in range(250)]
    listed = PathList.of(reversed(paths))
    assert listed is not None
    assert (listed.count, list(listed.paths)) == (250, paths[:MAX_LISTED_PATHS])
    assert PathList.of([]) is None

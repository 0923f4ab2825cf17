"""Trees that nobody sane would write: checking them out writes nothing outside of the target, and says why."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest

from replicate.errors import ConflictError, CorruptionError, ReplicateError, WorktreeModifiedError
from replicate.objects.codecs import MAX_RAW_BYTES, Encoding, concat
from replicate.objects.codecs.concat import Chunk
from replicate.objects.ids import Kind, ObjectID, blob_id
from replicate.objects.model import Mode, TreeEntry, encode_tree
from replicate.reporting import SilentReporter
from replicate.worktree.checkout import Checkout
from tests.builders import Frame, build_pack, concat_frame, entry, patch_frame, some_id, store_of, tree_frame

HELLO = b"hello\n"
SECRET = b"not to be touched"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """Give a folder with a target, and check afterwards that everything beside the target is as it was."""
    (tmp_path / "target").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_bytes(SECRET)
    yield tmp_path
    assert sorted(os.listdir(tmp_path)) == ["outside", "target"]
    assert os.listdir(tmp_path / "outside") == ["secret"]
    assert (tmp_path / "outside" / "secret").read_bytes() == SECRET


def check_out(place: Path, tree: Frame, *frames: Frame, retained: bool = False, force: bool = False) -> None:
    """Check a tree out into the target."""
    distinct = {(one.object_id, one.kind): one for one in (tree, *frames)}
    objects = store_of(build_pack(list(distinct.values())))
    work = Checkout(objects, str(place / "target"), SilentReporter(), is_retained=lambda blob: retained)
    work.run(work.plan(tree.object_id, force=force))


def raw_tree(rows: Any) -> Frame:
    """Return a frame that claims to be a tree, of any rows."""
    return Frame(bytes(msgpack.packb(rows, use_bin_type=True)), Kind.TREE)


def row(name: bytes, content: bytes = HELLO, mode: int = 0) -> tuple[bytes, int, int, bytes]:
    return name, mode, len(content), bytes(blob_id(content))


def files_in(place: Path) -> list[str]:
    return sorted(os.listdir(place / "target"))


# -- names


@pytest.mark.parametrize(
    "name",
    [
        b"..",
        b".",
        b"",
        b"../secret",
        b"../outside/secret",
        b"/etc/passwd",
        b"/",
        b"a/b",
        b"a/../../outside/secret",
        b"a\0b",
        b"\0",
        b"n" * 256,
    ],
)
@pytest.mark.parametrize("mode", [0, 1, 2, 3])
def test_a_name_that_leads_elsewhere_is_refused(place: Path, name: bytes, mode: int) -> None:
    inner = tree_frame([entry("x", HELLO)])
    content = inner.content if mode == 3 else HELLO
    bad = raw_tree([(name, mode, 6, bytes(inner.object_id) if mode == 3 else bytes(blob_id(content)))])
    with pytest.raises(CorruptionError) as caught:
        check_out(place, bad, inner, Frame(HELLO))
    assert str(caught.value) == f"tree {bad.object_id.hex()} is damaged: name {name!r} is not allowed here"
    assert files_in(place) == []


@pytest.mark.parametrize(
    "rows",
    [
        [row(b"a"), row(b"a", b"other")],
        [row(b"b"), row(b"a")],
        [row(b"d", b"../outside", 2), (b"d", 3, 6, bytes(32))],
    ],
)
def test_a_name_that_comes_twice_or_out_of_order_is_refused(place: Path, rows: list[Any]) -> None:
    bad = raw_tree(rows)
    with pytest.raises(CorruptionError, match=f"^tree {bad.object_id.hex()} is damaged: name .* is not allowed here$"):
        check_out(place, bad, Frame(HELLO), Frame(b"other"), Frame(b"../outside"))
    assert files_in(place) == []


def test_a_bad_tree_deep_inside_is_found_before_anything_is_written(place: Path) -> None:
    bad = raw_tree([row(b"..")])
    middle = tree_frame([TreeEntry(b"deep", Mode.DIRECTORY, 6, bad.object_id)])
    top = tree_frame([entry("a", HELLO), TreeEntry(b"sub", Mode.DIRECTORY, 6, middle.object_id)])
    with pytest.raises(CorruptionError, match=f"^tree {bad.object_id.hex()} is damaged: "):
        check_out(place, top, middle, bad, Frame(HELLO))
    assert files_in(place) == []


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc0",
        b"\xdd\xff\xff\xff\xff",
        b"\xdc\xff\xff" + b"\x90" * 10,
        b"\x91" * 2_000 + b"\x90",
        b"\x91\x94\xc6\xff\xff\xff\xff",
        b"\x91\x94\xc4\x01a\x00\x06\xc4\x20" + bytes(31),
        encode_tree([entry("a")]) + b"\0",
        bytes(1_000_000),
    ],
)
def test_bytes_that_are_no_tree_are_refused(place: Path, data: bytes) -> None:
    bad = Frame(data, Kind.TREE)
    with pytest.raises(CorruptionError, match=f"^tree {bad.object_id.hex()} is damaged: "):
        check_out(place, bad)
    assert files_in(place) == []


# -- links


def link(name: str, target: bytes) -> TreeEntry:
    return entry(name, target, Mode.SYMLINK)


def folder(name: str, inner: Frame, size: int = 6) -> TreeEntry:
    return TreeEntry(name.encode(), Mode.DIRECTORY, size, inner.object_id)


INNER = tree_frame([entry("secret", HELLO)])
TARGETS = [b"../outside", b"/", b"..", b"nowhere", b"d"]


@pytest.mark.parametrize("target", TARGETS)
def test_a_link_may_lead_anywhere_and_nothing_is_written_through_it(place: Path, target: bytes) -> None:
    top = tree_frame([link("d", target), entry("e", HELLO)])
    check_out(place, top, Frame(target), Frame(HELLO))
    check_out(place, top, Frame(target), Frame(HELLO))
    assert os.readlink(place / "target" / "d") == os.fsdecode(target)


@pytest.mark.parametrize("target", TARGETS)
def test_a_link_that_an_earlier_checkout_made_is_replaced_by_a_folder_not_followed(place: Path, target: bytes) -> None:
    check_out(place, tree_frame([link("d", target)]), Frame(target))
    check_out(place, tree_frame([folder("d", INNER)]), INNER, Frame(HELLO), retained=True)
    assert not (place / "target" / "d").is_symlink()
    assert (place / "target" / "d" / "secret").read_bytes() == HELLO


@pytest.mark.parametrize("target", TARGETS)
def test_a_link_of_the_users_is_kept_unless_forced_and_never_followed(place: Path, target: bytes) -> None:
    (place / "target" / "d").symlink_to(os.fsdecode(target))
    tree = tree_frame([folder("d", INNER)])
    with pytest.raises(WorktreeModifiedError) as caught:
        check_out(place, tree, INNER, Frame(HELLO))
    assert "d" in caught.value.paths
    assert os.readlink(place / "target" / "d") == os.fsdecode(target)
    check_out(place, tree, INNER, Frame(HELLO), force=True)
    assert (place / "target" / "d" / "secret").read_bytes() == HELLO


def test_a_file_where_a_link_is_replaces_the_link_not_what_it_leads_to(place: Path) -> None:
    (place / "target" / "secret").symlink_to("../outside/secret")
    tree = tree_frame([entry("secret", HELLO)])
    check_out(place, tree, Frame(HELLO), force=True)
    assert not (place / "target" / "secret").is_symlink()
    assert (place / "target" / "secret").read_bytes() == HELLO


def test_a_link_that_appears_after_the_plan_was_made_is_not_followed(place: Path) -> None:
    tree = tree_frame([folder("d", INNER)])
    objects = store_of(build_pack([tree, INNER, Frame(HELLO)]))
    work = Checkout(objects, str(place / "target"), SilentReporter(), is_retained=lambda blob: False)
    plan = work.plan(tree.object_id)
    (place / "target" / "d").symlink_to(place / "outside")
    with pytest.raises(ReplicateError):
        work.run(plan)


@pytest.mark.parametrize("target", [b"a\0b", b"\0", b"t" * 4_096])
def test_a_target_that_no_link_can_have_is_refused(place: Path, target: bytes) -> None:
    bad = raw_tree([(b"l", 2, 3, bytes(blob_id(target)))])
    with pytest.raises(CorruptionError) as caught:
        check_out(place, bad, Frame(target))
    assert blob_id(target).hex() in str(caught.value)
    assert files_in(place) == []


@pytest.mark.parametrize("size", [0, 4_096, 1 << 40])
def test_a_link_that_claims_an_impossible_length_is_refused(place: Path, size: int) -> None:
    bad = raw_tree([(b"l", 2, size, bytes(32))])
    with pytest.raises(CorruptionError) as caught:
        check_out(place, bad)
    assert str(caught.value) == (f"tree {bad.object_id.hex()} is damaged: the link b'l' has a target of {size} bytes")


# -- sizes


def lying(size: int, made: Frame, *others: Frame) -> tuple[Frame, ...]:
    """Return a tree that claims a size of its file, and the file's frames."""
    return raw_tree([(b"file", 0, size, bytes(made.object_id))]), made, *others


@pytest.mark.parametrize("size", [0, 5, 7, 1 << 22, 5 << 20, 1 << 62])
def test_a_file_of_another_size_than_its_tree_says_is_not_restored(place: Path, size: int) -> None:
    with pytest.raises(CorruptionError) as caught:
        check_out(place, *lying(size, Frame(HELLO)))
    short = blob_id(HELLO).short
    assert caught.value.message == (
        f"file cannot be restored: blob {short} is damaged: it has another length than its tree says; "
        "files written so far are whole"
    )
    assert caught.value.where == f"blob {blob_id(HELLO).hex()}"
    assert files_in(place) == []


@pytest.mark.parametrize("size", [b"\xff", b"\xcf" + b"\xff" * 8, b"\xcf\x80" + bytes(7)])
def test_a_size_that_no_file_has_is_refused(place: Path, size: bytes) -> None:
    bad = Frame(b"\x91\x94\xc4\x01a\x00" + size + b"\xc4\x20" + bytes(32), Kind.TREE)
    decoded = msgpack.unpackb(size)
    with pytest.raises(CorruptionError) as caught:
        check_out(place, bad)
    assert str(caught.value) == f"tree {bad.object_id.hex()} is damaged: size {decoded} of b'a' is not valid"
    assert files_in(place) == []


def test_a_folder_of_another_size_than_its_parent_says_is_refused(place: Path) -> None:
    top = tree_frame([folder("d", INNER, 7)])
    with pytest.raises(CorruptionError) as caught:
        check_out(place, top, INNER, Frame(HELLO))
    assert str(caught.value) == f"tree {INNER.object_id.hex()} is damaged: its parent claims another size"
    assert files_in(place) == []


def bomb(count: int) -> tuple[Frame, Frame]:
    """Return a concat of so many times 64 MiB, in a few bytes."""
    zeros = Frame(bytes(MAX_RAW_BYTES), encoding=Encoding.FILL, payload=b"\0")
    payload = concat.encode([Chunk(zeros.object_id, MAX_RAW_BYTES)] * count)
    made = Frame(b"x", encoding=Encoding.CONCAT, payload=payload, raw_length=MAX_RAW_BYTES * count)
    return made, zeros


def test_a_small_file_that_is_a_huge_concat_is_refused_before_it_is_assembled(place: Path) -> None:
    made, zeros = bomb(100_000)
    with pytest.raises(CorruptionError) as caught:
        check_out(place, *lying(10, made, zeros))
    assert made.object_id.hex() in str(caught.value)
    assert files_in(place) == []


ZSTD_BOMBS = {
    "it claims more than it holds": b"\x28\xb5\x2f\xfd\xa0" + (1 << 26).to_bytes(4, "little") + b"\1\0\0",
    "it claims 2^62 bytes": b"\x28\xb5\x2f\xfd\xe0" + (1 << 62).to_bytes(8, "little") + b"\1\0\0",
    "it wants a window of 2^41 bytes": b"\x28\xb5\x2f\xfd\xc0\xf8" + (1 << 26).to_bytes(8, "little") + b"\1\0\0",
    "it is nothing": b"",
}


@pytest.mark.parametrize("payload", ZSTD_BOMBS.values(), ids=ZSTD_BOMBS)
@pytest.mark.parametrize("raw_length", [6, MAX_RAW_BYTES, 1 << 62, (1 << 64) - 1])
@pytest.mark.parametrize("kind", [Kind.BLOB, Kind.TREE])
def test_a_zstd_bomb_is_an_error_that_names_its_object(
    place: Path, payload: bytes, raw_length: int, kind: Kind
) -> None:
    made = Frame(b"x", kind, Encoding.ZSTD, payload, raw_length=raw_length)
    frames = (made,) if kind is Kind.TREE else lying(6, made)
    with pytest.raises(CorruptionError, match=made.object_id.hex()):
        check_out(place, *frames)
    assert files_in(place) == []


# -- depth


def nested(depth: int, name: bytes = b"d") -> list[Frame]:
    """Return the trees of folders in one another, the outermost first."""
    frames = [tree_frame([])]
    for _ in range(depth):
        frames.append(tree_frame([TreeEntry(name, Mode.DIRECTORY, 0, frames[-1].object_id)]))
    return frames[::-1]


def test_folders_nest_no_deeper_than_a_thousand(place: Path) -> None:
    frames = nested(1_002)
    with pytest.raises(CorruptionError) as caught:
        check_out(place, *frames)
    assert "is nested deeper than 1,000 folders" in str(caught.value)
    assert files_in(place) == []


def test_deep_folders_are_restored(place: Path) -> None:
    check_out(place, *nested(900))
    depth, path = 0, place / "target"
    while entries := os.listdir(path):
        path, depth = path / entries[0], depth + 1
    assert depth == 900


@pytest.mark.parametrize("depth", [16, 20, 100])
def test_a_path_that_is_longer_than_systems_allow_is_restored_or_a_typed_error(place: Path, depth: int) -> None:
    frames = nested(depth, b"n" * 255)
    error: ReplicateError | None = None
    try:
        check_out(place, *frames)
    except ReplicateError as exc:
        error = exc
    assert error is None or files_in(place) in ([], ["n" * 255])


def test_a_tree_cannot_hold_itself(place: Path) -> None:
    claimed = some_id("circle")
    circle = Frame(encode_tree([TreeEntry(b"d", Mode.DIRECTORY, 0, claimed)]), Kind.TREE, claimed=claimed)
    with pytest.raises(CorruptionError) as caught:
        check_out(place, circle)
    assert str(caught.value).startswith(f"tree {claimed.hex()} in pack ")
    assert str(caught.value).endswith(" is damaged: its bytes do not match its id")


def circle_of_patches() -> list[Frame]:
    first, second = (encode_tree([entry(name, HELLO)]) for name in ("a", "b"))
    return [patch_frame(second, first), patch_frame(first, second)]


def concat_in_concat() -> list[Frame]:
    inner = concat_frame(b"abc", b"de")
    payload = concat.encode([Chunk(inner.object_id, 5), Chunk(blob_id(HELLO), 6)])
    outer = Frame(inner.content + HELLO, encoding=Encoding.CONCAT, payload=payload)
    tree = raw_tree([(b"file", 0, 11, bytes(outer.object_id))])
    return [tree, outer, inner, Frame(b"abc"), Frame(b"de"), Frame(HELLO)]


def concat_of_itself() -> list[Frame]:
    claimed = ObjectID(blob_id(b"itself"))
    payload = concat.encode([Chunk(claimed, 3), Chunk(claimed, 3)])
    made = Frame(b"itself", encoding=Encoding.CONCAT, payload=payload)
    return [raw_tree([(b"file", 0, 6, bytes(claimed))]), made]


@pytest.mark.parametrize("make", [circle_of_patches, concat_in_concat, concat_of_itself])
def test_what_refers_to_itself_ends_in_an_error(place: Path, make: Callable[[], list[Frame]]) -> None:
    frames = make()
    with pytest.raises(CorruptionError) as caught:
        check_out(place, *frames)
    assert any(one.object_id.hex() in str(caught.value) for one in frames)
    assert "(I7)" in caught.value.message
    assert files_in(place) == []


def test_a_file_that_cannot_be_read_leaves_the_others_whole(place: Path) -> None:
    tree = tree_frame([entry("a", HELLO), entry("b", b"gone"), entry("c", b"there\n")])
    with pytest.raises(ReplicateError, match=blob_id(b"gone").hex()):
        check_out(place, tree, Frame(HELLO), Frame(b"there\n"))
    for name in files_in(place):
        assert (place / "target" / name).read_bytes() in (HELLO, b"there\n")


def test_a_folder_is_never_replaced_by_a_file(place: Path) -> None:
    (place / "target" / "a").mkdir()
    with pytest.raises(ConflictError):
        check_out(place, tree_frame([entry("a", HELLO)]), Frame(HELLO), force=True)
    assert (place / "target" / "a").is_dir()

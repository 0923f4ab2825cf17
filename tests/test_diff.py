"""Differences as values: of texts, of params, of files, of commits."""

from __future__ import annotations

import itertools
import json
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from replicate.capture import Capture
from replicate.checkpoints import Checkpoint, InertCheckpoint
from replicate.diff import Difference, FileChange, Side, TextDiff, diff_commits, diff_entries, diff_worktree, lines
from replicate.diff.files import MAX_TEXT_BYTES, compare_trees, list_changes
from replicate.diff.lines import diff_text, find_changes, is_binary, split_lines
from replicate.diff.values import ValueChange, compare_values
from replicate.errors import InvalidInputError, NotFoundError, PathNotFoundError
from replicate.objects.ids import Kind, ObjectID, blob_id
from replicate.objects.model import Mode, TreeEntry
from replicate.objects.store import ObjectStore
from replicate.presenting import File
from replicate.refs import CommitRecord
from replicate.session import Session, select_paths
from replicate.transport import LocalTransport
from replicate.worktree.trees import iter_tree
from tests.builders import Folder, SmallStore
from tests.projects import SampleProject, wait_until_settled

# -- texts

LINES = st.lists(st.sampled_from([b"a\n", b"b\n", b"  c\n", b"\n", b"d\n"]), max_size=14)
TEXTS = st.builds(lambda lines, rest: b"".join(lines) + rest, LINES, st.sampled_from([b"", b"a", b"x"]))


def applied(old: bytes, diff: TextDiff) -> bytes:
    """Return what hunks make of a text, having checked everything that they claim of it."""
    lines = split_lines(old)
    made: list[bytes] = []
    at = 0
    for hunk in diff.hunks:
        begin = hunk.old_start - 1 if hunk.old_count else hunk.old_start
        made += lines[at:begin]
        assert len(made) == (hunk.new_start - 1 if hunk.new_count else hunk.new_start)
        before = [line[1:] for line in hunk.lines if line[:1] in b" -"]
        after = [line[1:] for line in hunk.lines if line[:1] in b" +"]
        assert (len(before), len(after)) == (hunk.old_count, hunk.new_count)
        assert lines[begin : begin + len(before)] == before
        made += after
        at = begin + len(before)
    return b"".join(made + lines[at:])


@given(TEXTS, TEXTS)
@settings(max_examples=300)
def test_the_hunks_turn_one_text_into_the_other(old: bytes, new: bytes) -> None:
    diff = diff_text(old, new)
    assert applied(old, diff) == new
    signs = [line[:1] for hunk in diff.hunks for line in hunk.lines]
    assert (diff.added, diff.removed) == (signs.count(b"+"), signs.count(b"-"))
    assert bool(diff.hunks) == (old != new)


@given(TEXTS, TEXTS)
@example(b"1\np\nz\n3\n", b"2\np\n    q\np\nz\n4\n")  # an addition that would read best at the change before it
def test_an_equal_line_lies_between_two_changes(old: bytes, new: bytes) -> None:
    changes = find_changes(split_lines(old), split_lines(new))
    for one, other in itertools.pairwise(changes):
        assert other.old_start - one.old_stop == other.new_start - one.new_stop > 0


def test_texts_with_nothing_in_order_are_replaced_and_not_searched_for_ever() -> None:
    old = b"0\n1\n" * 100_000
    new = b"".join(b"%d\n" % (number * number // 7 % 2) for number in range(200_000))
    diff = diff_text(old, new)
    assert len(diff.hunks) == 1
    assert applied(old, diff) == new


def test_few_changes_in_a_long_text_are_found_however_far_apart() -> None:
    old = b"".join(b"%d\n" % number for number in range(20_000))
    new = old.replace(b"\n500\n", b"\nfive hundred\n").replace(b"\n19000\n", b"\n")
    diff = diff_text(old, new)
    assert (diff.added, diff.removed, len(diff.hunks)) == (1, 2, 2)


def test_a_function_is_added_whole() -> None:
    old = b"def a():\n    return 1\n\n\ndef c():\n    return 1\n"
    new = b"def a():\n    return 1\n\n\ndef b():\n    return 1\n\n\ndef c():\n    return 1\n"
    (hunk,) = diff_text(old, new).hunks
    assert [line for line in hunk.lines if line[:1] == b"+"] == [b"+def b():\n", b"+    return 1\n", b"+\n", b"+\n"]


def test_a_function_is_added_with_the_line_above_it() -> None:
    old = b"import x\n\n@x\ndef c():\n    return 1\n"
    (hunk,) = diff_text(old, old.replace(b"@x", b"@x\ndef b():\n    return 2\n\n@x")).hunks
    assert [line for line in hunk.lines if line[:1] == b"+"] == [b"+@x\n", b"+def b():\n", b"+    return 2\n", b"+\n"]


def test_what_is_added_at_the_end_begins_where_it_is_indented_least() -> None:
    (hunk,) = diff_text(b"1\nif u:\n    s\n", b"2\nif u:\n    s\nif q:\n    s\n").hunks
    assert hunk.lines[-3:] == (b"     s\n", b"+if q:\n", b"+    s\n")


def test_a_hunk_tells_the_function_that_it_is_in() -> None:
    old = b"import x\nclass A:\n    def f(self):\n" + b"        pass\n" * 5 + b"        a\n"
    (hunk,) = diff_text(old, old[:-2] + b"b\n").hunks
    assert hunk.section == b"    def f(self):"


def test_the_line_that_hunks_are_below_is_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Counted:
        tried = 0

        def match(self, line: bytes) -> None:
            self.tried += 1

    counted = Counted()
    monkeypatch.setattr(lines, "_SECTION", counted)
    old = [b"%d\n" % number for number in range(2_000)]
    new = [b"-\n" if number % 10 == 0 else line for number, line in enumerate(old)]
    assert len(diff_text(b"".join(old), b"".join(new)).hunks) == 200
    assert counted.tried <= len(old)


def test_a_missing_newline_at_the_end_is_a_change() -> None:
    diff = diff_text(b"a\nb\n", b"a\nb")
    assert diff.hunks[0].lines == (b" a\n", b"-b\n", b"+b")


@pytest.mark.parametrize("data", [b"\0", b"text\0text", bytes(range(32)) * 8, b"\x7f\x01\x02 short"])
def test_nul_and_many_control_characters_mean_binary(data: bytes) -> None:
    assert is_binary(data)


@pytest.mark.parametrize(
    "data", [b"", "größe\n".encode("latin-1"), "größe\r\n\t".encode(), b"\x1b[31mred\x1b[0m\n" * 9]
)
def test_text_of_any_encoding_is_text(data: bytes) -> None:
    assert not is_binary(data)


def test_a_nul_after_8_kib_is_not_looked_for() -> None:
    assert not is_binary(b"a" * 8192 + b"\0")


# -- values


def changes_of(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, str, Any, Any]]:
    return [(one.name, one.change, one.before, one.after) for one in compare_values(before, after)]


def test_values_are_told_by_name() -> None:
    assert changes_of({"a": 1, "b": 2, "z": 0}, {"b": 3, "c": None, "z": 0}) == [
        ("a", "removed", 1, None),
        ("b", "changed", 2, 3),
        ("c", "added", None, None),
    ]


def test_dicts_and_lists_of_one_length_are_looked_into() -> None:
    before = {"model": {"name": "mlp", "layers": [64, {"n": 1}]}, "opt": {}}
    after = {"model": {"name": "mlp", "layers": [64, {"n": 2}]}, "opt": {"lr": {"peak": 1}}}
    assert changes_of(before, after) == [
        ("model.layers[1].n", "changed", 1, 2),
        ("opt.lr.peak", "added", None, 1),
    ]
    assert changes_of({"a": [1]}, {"a": [1, 2]}) == [("a", "changed", [1], [1, 2])]
    assert changes_of({"a": {}}, {}) == [("a", "removed", {}, None)]
    assert changes_of({"a": {"b": 1}}, {"a": 1}) == [("a", "changed", {"b": 1}, 1)]


def test_numbers_are_compared_as_numbers_and_booleans_are_none() -> None:
    assert changes_of({"a": 1, "n": math.nan, "z": 0.0}, {"a": 1.0, "n": math.nan, "z": -0.0}) == []
    assert changes_of({"a": 1}, {"a": True}) == [("a", "changed", 1, True)]
    assert changes_of({"a": "1"}, {"a": 1}) == [("a", "changed", "1", 1)]


def test_percent_and_better() -> None:
    assert ValueChange("loss", "changed", -2.0, -1).percent == 50
    for pair in ((0, 1), ("a", 1), (True, 2), (1, math.inf), (1, math.nan), (5e-324, 1e308)):
        assert ValueChange("loss", "changed", *pair).percent is None
    assert ValueChange("loss", "changed", 2, 1).is_better("minimize") is True
    assert ValueChange("loss", "changed", 2, 1).is_better("maximize") is False
    assert ValueChange("loss", "changed", 2, math.nan).is_better("maximize") is None
    assert ValueChange("loss", "added", None, 1).is_better("maximize") is None


# -- trees

FILES = st.sampled_from([b"", b"one", b"two", b"three"])
FOLDERS: st.SearchStrategy[Folder] = st.recursive(
    st.dictionaries(st.sampled_from("abc"), FILES, max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("abcd"), FILES | inner, max_size=4),
    max_leaves=8,
)


def leaves(objects: ObjectStore, tree: ObjectID) -> dict[str, tuple[str, str]]:
    """Return kind and id of every file and empty folder by path."""
    listed = list(iter_tree(objects, tree))
    filled = {path.rpartition(b"/")[0] for path, _ in listed}
    files = [File.of(path, entry) for path, entry in listed if path not in filled]
    return {file.path: (file.kind, file.object_id) for file in files}


def apply_changes(files: dict[str, tuple[str, str]], changes: tuple[FileChange, ...]) -> dict[str, tuple[str, str]]:
    """Return files by path after some changes; what a change says of the file before has to be so."""
    made = dict(files)
    for change in changes:
        if change.before:
            assert made.pop(change.before.path) == (change.before.kind, change.before.object_id)
    for change in changes:
        if change.after:
            assert change.after.path not in made
            made[change.after.path] = (change.after.kind, change.after.object_id)
    return made


@given(FOLDERS, FOLDERS)
def test_the_changes_turn_the_files_of_one_commit_into_those_of_the_other(
    tmp_path_factory: pytest.TempPathFactory, before: Folder, after: Folder
) -> None:
    store = SmallStore(tmp_path_factory.mktemp("store"))
    saved = store.save(before)
    other = store.save(after, saved)
    objects, other_objects = store.objects(saved), store.objects(other)
    tree, other_tree = saved.record.commit.tree, other.record.commit.tree
    roots = [TreeEntry(b"", Mode.DIRECTORY, 0, one) for one in (tree, other_tree)]
    changes = list_changes(compare_trees(objects, roots[0], other_objects, roots[1]))
    assert apply_changes(leaves(objects, tree), changes) == leaves(other_objects, other_tree)
    assert [change.path for change in changes] == sorted(change.path for change in changes)
    for change in changes:
        assert (change.before is None, change.after is None) == (change.change == "added", change.change == "removed")
    again = list_changes(dict(reversed(compare_trees(objects, roots[0], other_objects, roots[1]).items())))
    assert again == changes


class Reads:
    """Counts the objects that are read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.trees: list[ObjectID] = []
        self.blobs: list[ObjectID] = []
        read = ObjectStore.read

        def counted(
            store: ObjectStore, wanted: ObjectID, kind: Kind = Kind.BLOB, *, claimed_bytes: int | None = None
        ) -> bytes:
            (self.trees if kind is Kind.TREE else self.blobs).append(wanted)
            return read(store, wanted, kind, claimed_bytes=claimed_bytes)

        monkeypatch.setattr(ObjectStore, "read", counted)


def sides(project: SampleProject, before: CommitRecord, after: CommitRecord) -> tuple[Side, Side]:
    """Return two commits of one store as sides, by a fresh look at it."""
    repository = project.open()
    history = project.history()
    return tuple(Side(repository, history.experiment_of(one), one) for one in (before, after))  # type: ignore[return-value]


def compare(project: SampleProject, before: CommitRecord, after: CommitRecord, *paths: bytes) -> Difference:
    """Return what differs between two commits."""
    return diff_commits(*sides(project, before, after), paths)


def letters(difference: Difference) -> list[str]:
    """Return letter and path of every change, and of a renamed file where it was."""
    return [
        f"{change.letter} {change.path}"
        + (f" < {change.before.path}" if change.letter == "R" and change.before else "")
        for change in difference.files
    ]


@pytest.fixture
def project(tmp_path: Path) -> SampleProject:
    return SampleProject(tmp_path / "project")


class TwoCommits:
    """A project that is saved, changed, and saved again."""

    def __init__(self, root: Path) -> None:
        self.project = SampleProject(root)
        self.write = self.project.write
        self.root = self.project.root

    def save(self) -> None:
        """Save what was written so far."""
        self.session = self.project.begin()
        self.first = self.session.head

    def difference(self, *paths: bytes) -> Difference:
        """Save what was written since, and return what differs."""
        self.second = self.project.save(self.session).base.record
        return compare(self.project, self.first, self.second, *paths)


@pytest.fixture
def two(tmp_path: Path) -> TwoCommits:
    return TwoCommits(tmp_path / "project")


def test_only_trees_that_differ_are_read_and_files_only_for_their_text(
    two: TwoCommits, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(2_000):
        two.write(f"data/{number % 40:02}/{number:04}.txt", f"{number}\n")
    two.save()
    for number in (0, 40, 7):  # in two folders
        two.write(f"data/{number % 40:02}/{number:04}.txt", "changed\n")
    record = two.project.save(two.session).base.record
    compared = sides(two.project, two.first, record)
    reads = Reads(monkeypatch)
    difference = diff_commits(*compared)
    assert letters(difference) == ["M data/00/0000.txt", "M data/00/0040.txt", "M data/07/0007.txt"]
    assert len(reads.trees) == 2 * 4  # the root, data, and two folders, on both sides
    assert reads.blobs == []
    assert difference.text(difference.files[0]) == diff_text(b"0\n", b"changed\n")
    assert sorted(reads.blobs) == sorted([blob_id(b"0\n"), blob_id(b"changed\n")])


def test_locators_that_both_commits_name_are_read_once(two: TwoCommits, monkeypatch: pytest.MonkeyPatch) -> None:
    two.write("a", "1")
    two.save()
    for number in range(4):
        two.write("a", str(number))
        two.second = two.project.save(two.session).base.record
    compared = sides(two.project, two.first, two.second)
    read: list[tuple[str, int]] = []
    get = LocalTransport.get

    def counted(transport: LocalTransport, key: str, start: int = 0, end: int | None = None) -> bytes:
        read.append((key, start))
        return get(transport, key, start, end)

    monkeypatch.setattr(LocalTransport, "get", counted)
    assert letters(diff_commits(*compared)) == ["M a"]
    assert len(read) == len(set(read))


def test_every_kind_of_change_is_told(two: TwoCommits) -> None:
    two.write("gone", "1")
    two.write("changed", "2")
    two.write("to-exec", "3")
    two.write("to-link", "4")
    two.write("to-folder", "5")
    two.write("from-folder/x", "6")
    two.write("emptied/x", "7")
    (two.root / "filled").mkdir()
    two.write("same/x", "8")
    two.save()
    for name in ("gone", "to-link", "to-folder", "emptied/x"):
        (two.root / name).unlink()
    shutil.rmtree(two.root / "from-folder")
    two.write("changed", "two")
    two.write("to-exec", "3", executable=True)
    os.symlink("changed", two.root / "to-link")
    two.write("to-folder/y", "y")
    two.write("from-folder", "f")
    two.write("filled/x", "z")
    two.write("new", "n")
    difference = two.difference()
    assert letters(difference) == [
        "M changed",
        "A emptied",
        "D emptied/x",
        "D filled",
        "A filled/x",
        "A from-folder",
        "D from-folder/x",
        "D gone",
        "A new",
        "M to-exec",
        "D to-folder",
        "A to-folder/y",
        "M to-link",
    ]
    kinds = {
        change.path: (change.before and change.before.kind, change.after and change.after.kind)
        for change in difference.files
    }
    assert kinds["to-exec"] == ("file", "executable")
    assert kinds["to-link"] == ("file", "symlink")
    assert kinds["emptied"] == (None, "folder")
    assert difference
    assert not compare(two.project, two.first, two.first)


def test_paths_limit_what_is_compared(two: TwoCommits) -> None:
    for name in ("a/x", "a/y", "ab", "b/z", "c"):
        two.write(name, "1" + name)
    two.save()
    for name in ("a/x", "a/y", "ab", "b/z"):
        two.write(name, "2" + name)
    (two.root / "c").unlink()
    assert letters(two.difference(b"a")) == ["M a/x", "M a/y"]
    for paths, wanted in (
        ([b"a/y", b"a"], ["M a/x", "M a/y"]),
        ([b"b/z", b"c"], ["M b/z", "D c"]),
        ([b"nothing"], []),
        ([b""], ["M a/x", "M a/y", "M ab", "M b/z", "D c"]),
    ):
        assert letters(compare(two.project, two.first, two.second, *paths)) == wanted


# -- renamed files


def test_equal_bytes_at_another_path_are_a_renamed_file(two: TwoCommits) -> None:
    two.write("model.py", "model")
    two.save()
    (two.root / "model.py").unlink()
    two.write("src/net.py", "model", executable=True)
    difference = two.difference()
    assert letters(difference) == ["R src/net.py < model.py"]
    assert difference.text(difference.files[0]) == TextDiff()


def test_files_of_one_name_are_paired_before_others(two: TwoCommits) -> None:
    for name in ("a/one", "a/two", "b/one"):
        two.write(name, "same")
    two.save()
    for name in ("a", "b"):
        shutil.rmtree(two.root / name)
    for name in ("c/aaa", "c/one", "d/two", "e/zzz"):
        two.write(name, "same")
    assert letters(two.difference()) == ["R c/aaa < b/one", "R c/one < a/one", "R d/two < a/two", "A e/zzz"]


def test_empty_files_links_and_folders_are_not_taken_for_each_other(two: TwoCommits) -> None:
    two.write("__init__.py", "")
    two.write("link", "target")
    (two.root / "empty").mkdir()
    two.save()
    (two.root / "__init__.py").unlink()
    (two.root / "link").unlink()
    (two.root / "empty").rmdir()
    two.write("src/__init__.py", "")
    os.symlink("target", two.root / "alias")
    (two.root / "void").mkdir()
    assert letters(two.difference()) == [
        *("D __init__.py", "A alias", "D empty", "D link", "A src/__init__.py", "A void"),
    ]


# -- text of files


@pytest.mark.parametrize("side", [0, 1])
def test_a_file_of_more_than_1_mib_is_not_read(two: TwoCommits, monkeypatch: pytest.MonkeyPatch, side: int) -> None:
    texts = ["small\n", "x" * (MAX_TEXT_BYTES + 1)]
    two.write("notes.txt", texts[side])
    two.save()
    two.write("notes.txt", texts[1 - side])
    difference = two.difference()
    reads = Reads(monkeypatch)
    assert difference.text(difference.files[0]) == TextDiff(note="more than 1 MiB")
    assert reads.blobs in ([], [blob_id(b"small\n")])


def test_binary_files_have_no_lines(two: TwoCommits) -> None:
    two.write("model.bin", "text\n")
    two.save()
    two.write("model.bin", b"\0\1")
    difference = two.difference()
    assert difference.text(difference.files[0]) == TextDiff(note="binary")


def test_texts_of_two_encodings_are_compared_as_bytes(two: TwoCommits) -> None:
    two.write("notes.txt", "größe\nsame\n".encode("latin-1"))
    two.save()
    two.write("notes.txt", "größe\nsame\n".encode())
    difference = two.difference()
    (hunk,) = difference.text(difference.files[0]).hunks
    assert hunk.lines == (b"-gr\xf6\xdfe\n", b"+gr\xc3\xb6\xc3\x9fe\n", b" same\n")


def test_the_text_of_a_link_is_its_target(two: TwoCommits) -> None:
    os.symlink("here", two.project.root / "link")
    two.save()
    (two.root / "link").unlink()
    os.symlink("there", two.root / "link")
    difference = two.difference()
    assert difference.text(difference.files[0]) == diff_text(b"here", b"there")


# -- the worktree

ENTRIES = st.dictionaries(
    st.sampled_from(["a", "b", "d/a", "d/b", "d/e/a", "f"]),
    st.tuples(st.sampled_from(["file", "executable", "link", "folder"]), st.sampled_from(["one", "two", ""])),
    max_size=5,
)


def lay_out(root: Path, entries: Mapping[str, tuple[str, str]]) -> None:
    """Make a worktree of some entries; those that are in the way of earlier ones are left out."""
    for path in root.iterdir():
        if path.name == ".replicate":
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    for name, (kind, text) in entries.items():
        path = root / name
        if any(os.path.lexists(above) and (above.is_symlink() or not above.is_dir()) for above in path.parents):
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(path):
            continue
        if kind == "folder":
            path.mkdir()
        elif kind == "link":
            os.symlink(text or "d", path)
        else:
            path.write_text(text)
            path.chmod(0o755 if kind == "executable" else 0o644)


@given(ENTRIES, ENTRIES)
@settings(max_examples=40)
def test_the_worktree_differs_as_the_commit_that_it_is_saved_as(
    tmp_path_factory: pytest.TempPathFactory, before: dict[str, tuple[str, str]], after: dict[str, tuple[str, str]]
) -> None:
    project = SampleProject(tmp_path_factory.mktemp("project"))
    lay_out(project.root, before)
    session = project.begin()
    first = session.head
    lay_out(project.root, after)
    found = diff_worktree(project.open(), first)
    wanted = compare(project, first, project.save(session).base.record)
    assert letters(found) == letters(wanted)
    for change, other in zip(found.files, wanted.files, strict=True):
        for file, saved in ((change.before, other.before), (change.after, other.after)):
            assert (file and (file.kind, file.size_bytes)) == (saved and (saved.kind, saved.size_bytes))
        assert found.text(change) == wanted.text(other)


def test_unchanged_files_of_the_worktree_are_not_opened(two: TwoCommits, opened: list[str]) -> None:
    for name in ("a", "b", "c"):
        two.write(name, name)
    wait_until_settled(two.root)
    two.save()
    (two.root / "b").unlink()
    two.write("moved", "b")
    two.write("new", "of another size")
    opened.clear()
    assert letters(diff_worktree(two.project.open(), two.first)) == ["R moved < b", "A new"]
    assert [os.path.basename(path) for path in opened if "probe" not in path] == ["moved"]


@pytest.mark.parametrize("rule", ["logs/", "logs/*"])
def test_ignored_files_that_were_saved_by_name_are_compared(two: TwoCommits, rule: str) -> None:
    two.write(".replicateignore", rule + "\n")
    two.write("logs/a", "1")
    two.write("logs/b", "1")
    two.save()
    record = two.project.save(two.session, ["logs/a", "logs/b"]).base.record
    assert not diff_worktree(two.project.open(), record)
    two.write("logs/a", "2")
    two.write("logs/never-saved", "2")
    assert letters(diff_worktree(two.project.open(), record)) == ["M logs/a"]
    shutil.rmtree(two.root / "logs")
    assert letters(diff_worktree(two.project.open(), record)) == ["D logs/a", "D logs/b"]


def test_a_link_to_a_folder_is_not_looked_through(two: TwoCommits) -> None:
    two.write("data/x", "1")
    two.save()
    (two.root / "data").rename(two.root / "elsewhere")
    os.symlink("elsewhere", two.root / "data")
    assert letters(diff_worktree(two.project.open(), two.first)) == ["A data", "R elsewhere/x < data/x"]


def test_a_file_that_is_gone_when_its_text_is_read_is_told(two: TwoCommits) -> None:
    two.write("a", "1")
    two.save()
    two.write("a", "22")
    difference = diff_worktree(two.project.open(), two.first)
    two.write("a", "1")
    assert difference.text(difference.files[0]) == diff_text(b"1", b"1")
    (two.root / "a").unlink()
    assert difference.text(difference.files[0]) == TextDiff(note="cannot be read: No such file or directory")


# -- two entries


def test_files_and_folders_of_other_names_are_compared(two: TwoCommits) -> None:
    two.write("a/x", "1\n")
    two.write("a/y", "1\n")
    two.write("b/x", "2\n")
    two.write("b/y", "1\n")
    two.save()
    one, other = sides(two.project, two.first, two.first)
    files = diff_entries(one, b"a/x", other, b"b/x")
    assert [(change.letter, change.before and change.before.path, change.path) for change in files.files] == [
        ("M", "a/x", "b/x")
    ]
    assert files.text(files.files[0]) == diff_text(b"1\n", b"2\n")
    assert letters(diff_entries(one, b"a", other, b"b")) == ["M x"]
    assert not diff_entries(one, b"a/y", other, b"b/y")
    with pytest.raises(PathNotFoundError) as missing:
        diff_entries(one, b"a", other, b"c")
    assert missing.value.message == f"{two.first.commit_id.short} has no 'c'"
    with pytest.raises(InvalidInputError) as mixed:
        diff_entries(one, b"a/x", other, b"b")
    assert mixed.value.message == "b is a folder and a/x is not"


# -- checkpoints


def run(project: SampleProject, capture: Capture, params: Mapping[str, Any], metrics: Mapping[str, Any]) -> Checkpoint:
    """Record an experiment of one checkpoint with some facts of its process."""
    repository = project.open()
    repository.create()
    session = Session(repository, project.events, capture)
    session.begin(params, None, (), ("loss", "minimize"), None)
    saved = session.checkpoint(select_paths(str(project.root), str(project.root), ()), None, metrics, None)
    session.end("finished")
    return Checkpoint(repository, saved.base.record, project.events)


def facts(python: str, packages: Any, command: str = "python train.py", **more: Any) -> Capture:
    """Return the facts of a process."""
    listed = packages if isinstance(packages, bytes) else json.dumps(packages).encode()
    return Capture({"python": python, "command": command, **more}, {b"packages.json": listed}, command, "me@here")


def test_checkpoints_are_compared_with_all_that_made_them(project: SampleProject) -> None:
    project.write("train.py", "print(1)\n")
    git = {"commit": "a" * 40, "branch": "main", "dirty": False, "remote": "x"}
    packages: list[dict[str, Any]] = [
        {"name": "NumPy", "version": "1.26"},
        {"name": "PyYAML", "version": "6"},
        {"name": "gone", "version": "1"},
    ]
    one = run(project, facts("3.11.0", packages, git=git), {"lr": 0.1}, {"loss": 0.5})
    project.write("train.py", "print(2)\n")
    packages = [{"name": "aaa", "version": "2"}, {"name": "numpy", "version": "2.0", "imported": True}]
    packages += [{"name": "pyyaml", "version": "6"}]
    now = git | {"commit": "b" * 40, "dirty": True}
    other = run(project, facts("3.12.1", packages, "python train.py --fast", git=now), {"lr": 0.2}, {"loss": 0.25})
    difference = one.diff(other)
    assert (difference.before, difference.after) == (one.id, other.id)
    assert difference.params == (ValueChange("lr", "changed", 0.1, 0.2),)
    assert difference.metrics == (ValueChange("loss", "changed", 0.5, 0.25),)
    assert difference.packages == (
        ValueChange("python", "changed", "3.11.0", "3.12.1"),
        ValueChange("numpy", "changed", "1.26", "2.0"),
        ValueChange("aaa", "added", None, "2"),
        ValueChange("gone", "removed", "1", None),
    )
    assert difference.git == (
        ValueChange("commit", "changed", "a" * 40, "b" * 40),
        ValueChange("dirty", "changed", False, True),
    )
    assert difference.command == ValueChange("command", "changed", "python train.py", "python train.py --fast")
    assert difference.primary_metric == ("loss", "minimize")
    assert letters(difference) == ["M train.py"]
    assert not one.diff(one)


@pytest.mark.parametrize("listed", [b"[" * 100_000, b"{", b"[1]", b'[{"name": "a"}]', b"null", b"\xff"])
def test_a_list_of_packages_that_is_none_means_not_recorded(project: SampleProject, listed: bytes) -> None:
    one = run(project, facts("3.11", []), {}, {})
    other = run(project, facts("3.12", listed), {}, {})
    assert one.diff(other).packages is None


def test_what_was_not_captured_is_unknown(project: SampleProject) -> None:
    one = run(project, facts("3.11", []), {}, {})
    other = run(project, facts("3.11", [{"name": "a", "version": "1"}], git="broken"), {}, {})
    assert one.diff(other).git == ()
    bare = run(project, Capture({}, {}, "python train.py", "me@here"), {}, {})
    assert one.diff(bare).packages is None


def test_a_resumed_experiment_differs_by_its_sessions(project: SampleProject) -> None:
    run(project, facts("3.11", []), {}, {})
    resumed = Session(project.open(), project.events, facts("3.12", [], "python more.py"))
    experiment = project.experiment()
    resumed.resume(experiment, experiment.heads[-1])
    second = project.save(resumed, ()).base.record
    difference = compare(project, experiment.heads[-1], second)
    assert difference.packages == (ValueChange("python", "changed", "3.11", "3.12"),)
    assert difference.command == ValueChange("command", "changed", "python train.py", "python more.py")


def test_checkpoints_of_two_stores_are_compared(tmp_path: Path) -> None:
    made = []
    for name in ("one", "other"):
        project = SampleProject(tmp_path / name)
        project.write("train.py", name + "\n")
        project.write("same", "same")
        made.append(run(project, facts("3.11", []), {}, {}))
    difference = made[0].diff(made[1])
    assert letters(difference) == ["M train.py"]
    assert difference.text(difference.files[0]) == diff_text(b"one\n", b"other\n")


def test_what_was_not_saved_cannot_be_compared(project: SampleProject) -> None:
    saved = run(project, facts("3.11", []), {}, {})
    inert = InertCheckpoint(0, None)
    for one, other in ((saved, inert), (inert, saved)):
        with pytest.raises(NotFoundError) as raised:
            one.diff(other)
        assert raised.value.message == "this checkpoint was not saved"

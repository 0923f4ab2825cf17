"""Stores whose hashes are all right and whose content is not: whoever made them can compute BLAKE3 too."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replicate.errors import CorruptionError, ReplicateError
from replicate.objects import canonical
from replicate.objects.codecs import Encoding
from replicate.objects.frames import FrameRef
from replicate.objects.ids import Kind, ObjectID, object_id
from replicate.objects.locator import Locator, LocatorView
from replicate.objects.model import Commit, commit_id, encode_commit, encode_tree
from replicate.objects.pack import ENTRY, Entry, Place
from replicate.objects.store import ObjectStore
from replicate.refs.records import MAGIC, encode_record
from replicate.transport import LocalTransport, MemoryTransport, Transport
from tests.builders import (
    SESSION,
    BuiltPack,
    Frame,
    SmallStore,
    build_pack,
    entry,
    refusal,
    some_id,
    store_of,
    zstd_frame,
)
from tests.hostile.readers import Outcome, read_everything
from tests.strategies import msgpack_values

HELLO = b"hello\n"
FILES = {"a": HELLO, "b": b"other"}


@dataclass
class Made:
    """A commit made by hand, part by part, so that one part can be wrong."""

    tree: bytes
    commit: dict[str, Any]
    locator: dict[str, Any]
    record: dict[str, Any]
    kind: str = "c"


def frames_of(made: Made) -> list[Frame]:
    blobs = [Frame(content) for content in FILES.values()]
    return [*blobs, Frame(made.tree, Kind.TREE), Frame(canonical.encode(made.commit), Kind.COMMIT)]


def make() -> Made:
    tree = encode_tree([entry(name, content) for name, content in FILES.items()])
    commit = Commit(tree=object_id(Kind.TREE, tree), author="ada", time_ns=1, nonce=bytes(16), params={"lr": 0.1})
    made = Made(tree, canonical.decode(encode_commit(commit), ""), {}, {})
    whole = build_pack(frames_of(made))
    made.locator = canonical.decode(Locator(whole.entries, (), (), 4, 4).encode(), "")
    made.record = {"files": 2, "bytes": 11, "new_bytes": 11, "duration": 5}
    return made


def store(made: Made, transport: Transport, *, locator: bytes | None = None) -> BuiltPack:
    """Put a commit into a store, with every id and hash computed as it should be."""
    frames = frames_of(made)
    listed = Frame(canonical.encode(made.locator) if locator is None else locator, Kind.LOCATOR)
    built = build_pack([*frames, listed], is_meta=True)
    transport.put(built.key, built.data)
    place = built.entries[-1]
    encoded = frames[-1].content
    wanted = commit_id(encoded)
    fields = {
        "commit": encoded,
        "packset": [bytes(built.pack_id)],
        "meta": [bytes(built.pack_id)],
        "locator": [bytes(built.pack_id), place.offset, place.length],
        **made.record,
    }
    name, data = encode_record(wanted, 0, SESSION, made.kind, fields, wanted.hex())
    transport.put(name.key, data)
    return built


def outcome_of(made: Made, *, locator: bytes | None = None) -> Outcome:
    transport = MemoryTransport()
    store(made, transport, locator=locator)
    return read_everything(transport)


def test_a_commit_made_by_hand_is_read() -> None:
    found = outcome_of(make())
    assert list(found.files.values()) == [FILES]
    assert found.damage == []


# -- any value anywhere


def replaced(value: Any, path: Sequence[int], new: Any) -> Any:
    """Return a value in which what a path of numbers leads to is another; numbers are taken modulo what there is."""
    if not path or not isinstance(value, dict | list) or not value:
        return new
    keys = list(value) if isinstance(value, dict) else range(len(value))
    key = keys[path[0] % len(keys)]
    copy: Any = value.copy()
    copy[key] = replaced(value[key], path[1:], new)
    return copy


paths = st.lists(st.integers(0, 20), min_size=1, max_size=4)
strange = st.one_of(
    msgpack_values,
    st.sampled_from([b"", bytes(32), bytes(31), [], {}, -1, 1 << 63, (1 << 64) - 1, "", "\0", True, float("nan")]),
    st.lists(st.just([bytes(32), 0, 60]), max_size=20),
)


def check_typed(found: Outcome) -> None:
    """Check that a hostile commit is either read right, or told of, and that every error names something."""
    for files in found.files.values():
        assert files == FILES or isinstance(files, ReplicateError)
    for error in [*found.damage, *(one for one in found.files.values() if isinstance(one, ReplicateError))]:
        assert any(len(word.strip(":,~/")) >= 32 for word in str(error).replace("~", " ").split()), str(error)


@settings(max_examples=150)
@given(paths, strange)
def test_any_value_in_a_locator_gives_the_right_bytes_or_a_typed_error(path: list[int], new: Any) -> None:
    made = make()
    made.locator = replaced(made.locator, path, new)
    check_typed(outcome_of(made, locator=canonical.encode(made.locator)))


@settings(max_examples=150)
@given(paths, strange)
def test_any_value_in_a_record_gives_the_right_bytes_or_a_typed_error(path: list[int], new: Any) -> None:
    transport = MemoryTransport()
    store(make(), transport)
    (info,) = transport.list("refs/")
    fields = canonical.decode(transport.get(info.key)[len(MAGIC) :], "")
    fields = replaced(fields, path, new)
    assert isinstance(fields, dict)
    transport.delete([info.key])
    experiment = ObjectID.parse(info.key.split("/")[2][:64])
    name, data = encode_record(experiment, 0, SESSION, "c", fields, experiment.hex())
    transport.put(name.key, data)
    check_typed(read_everything(transport))


@settings(max_examples=150)
@given(paths, strange)
def test_any_value_in_a_commit_gives_the_right_bytes_or_a_typed_error(path: list[int], new: Any) -> None:
    made = make()
    changed = replaced(made.commit, path, new)
    made.commit = changed
    check_typed(outcome_of(made))


@settings(max_examples=150)
@given(paths, strange)
def test_any_value_in_a_tree_gives_a_typed_error_or_other_names(path: list[int], new: Any) -> None:
    made = make()
    rows = canonical.decode(made.tree, "")
    data = canonical.encode(replaced(rows, path, new))
    frame = Frame(data, Kind.TREE)
    objects = store_of(build_pack([frame, *(Frame(content) for content in FILES.values())]))
    error = refusal(lambda: objects.read_tree(frame.object_id))
    if error is None:
        assert encode_tree(objects.read_tree(frame.object_id)) == data
    else:
        assert frame.object_id.hex() in str(error)


@settings(max_examples=150)
@given(st.integers(0, 3), st.integers(0, 6), st.integers(0, (1 << 64) - 1) | st.integers(0, 300))
def test_any_number_in_an_entry_table_gives_the_right_bytes_or_a_typed_error(row: int, item: int, new: int) -> None:
    made = make()
    ((pack, size, table),) = made.locator["packs"]
    numbers = list(ENTRY.unpack_from(table, row * ENTRY.size))
    limit = (256, 256, 256, 256, 1 << 32, 1 << 32, 1 << 64)[item]
    numbers[item + 1] = new % limit
    changed = bytearray(table)
    ENTRY.pack_into(changed, row * ENTRY.size, *numbers)
    made.locator["packs"] = [[pack, size, bytes(changed)]]
    check_typed(outcome_of(made, locator=canonical.encode(made.locator)))


# -- locators that lead astray


def view_of(*packs: BuiltPack, ref: FrameRef) -> ObjectStore:
    transport = MemoryTransport()
    for pack in packs:
        transport.put(pack.key, pack.data)
    return ObjectStore(transport, LocatorView(transport, [ref]))


def locator_pack(found: Locator, seed: int) -> tuple[BuiltPack, FrameRef]:
    built = build_pack([zstd_frame(found.encode(), Kind.LOCATOR)], bytes([seed]) * 16, is_meta=True)
    (place,) = built.entries
    return built, FrameRef(built.pack_id, place.offset, place.length)


def test_locators_that_name_more_locators_than_allowed_are_refused_before_these_are_read() -> None:
    data = build_pack([Frame(HELLO)])
    refs = tuple(FrameRef(some_id(f"{number}"), 32, 60) for number in range(17))
    built, ref = locator_pack(Locator((), tuple(data.places), refs, 1, 1), 1)
    with pytest.raises(CorruptionError) as caught:
        view_of(built, data, ref=ref).read(data.entries[0].object_id)
    assert str(caught.value) == (
        f"the locator in pack {built.pack_id.hex()} is damaged: it names more than 16 older locators"
    )


def test_locators_that_name_themselves_end() -> None:
    data = build_pack([Frame(HELLO)])
    found = Locator((), tuple(data.places), (), 1, 1)
    value = canonical.decode(found.encode(), "")
    frame = Frame(canonical.encode({**value, "older": [[b"", 32, 0]] * 16}), Kind.LOCATOR)
    length = frame.entry(32).length
    while True:  # its own length stands in it
        frame = Frame(canonical.encode({**value, "older": [[b"", 32, length]] * 16}), Kind.LOCATOR)
        if frame.entry(32).length == length:
            break
        length = frame.entry(32).length
    built = build_pack([frame])
    objects = view_of(built, data, ref=FrameRef(built.pack_id, 32, length))
    assert objects.read(data.entries[0].object_id) == HELLO


@pytest.mark.parametrize(
    "wrong",
    [
        {"offset": 33},
        {"offset": 1 << 20},
        {"length": 61},
        {"length": (1 << 28) - 32},
        {"raw_length": 7},
        {"raw_length": (1 << 64) - 1},
        {"encoding": Encoding.ZSTD},
        {"encoding": Encoding.FILL},
        {"encoding": Encoding.CONCAT},
        {"encoding": Encoding.PATCH, "depth": 1},
        {"encoding": 99},
        {"depth": 255},
        {"object_id": object_id(Kind.BLOB, b"other")},
    ],
)
def test_an_entry_that_leads_to_another_frame_is_a_typed_error(wrong: dict[str, Any]) -> None:
    data = build_pack([Frame(HELLO), Frame(b"other")])
    place = next(one for one in data.entries if one.raw_length == 6)
    bad: Entry = place._replace(**wrong)
    built, ref = locator_pack(Locator((), (Place(data.pack_id, 0, bad),), (), 1, 1), 1)
    with pytest.raises(ReplicateError, match=bad.object_id.hex()):
        view_of(built, data, ref=ref).read(bad.object_id)
    with pytest.raises(ReplicateError, match=bad.object_id.hex()):
        list(view_of(built, data, ref=ref).read_many([bad.object_id]))


def test_a_bad_entry_does_no_harm_beside_a_good_one() -> None:
    data = build_pack([Frame(HELLO)])
    (place,) = data.places
    bad = Place(some_id("none"), 0, place.entry)
    torn = place._replace(pack=some_id("torn"), entry=place.entry._replace(raw_length=(1 << 64) - 1))
    built, ref = locator_pack(Locator((), (bad, torn, place), (), 3, 3), 1)
    assert view_of(built, data, ref=ref).read(place.entry.object_id) == HELLO
    assert dict(view_of(built, data, ref=ref).read_many([place.entry.object_id])) == {place.entry.object_id: HELLO}


@pytest.mark.parametrize(
    "data",
    [
        b"\x28\xb5\x2f\xfd\xa0" + (1 << 26).to_bytes(4, "little") + b"\1\0\0",
        b"\x28\xb5\x2f\xfd\xe0" + (1 << 62).to_bytes(8, "little") + b"\1\0\0",
        b"",
    ],
)
@pytest.mark.parametrize("raw_length", [0, 1 << 26, 1 << 62, (1 << 64) - 1])
def test_a_locator_that_is_a_bomb_is_a_typed_error(data: bytes, raw_length: int) -> None:
    frame = Frame(b"x", Kind.LOCATOR, Encoding.ZSTD, data, raw_length=raw_length)
    built = build_pack([frame])
    with pytest.raises(CorruptionError, match=built.pack_id.hex()):
        view_of(built, ref=FrameRef(built.pack_id, 32, 60 + len(data))).read(some_id("x"))


# -- what may lie in a folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a store on the disk with two commits."""
    transport = LocalTransport(tmp_path / "store", durability="fast")
    small = SmallStore(tmp_path / "index", transport)
    first = small.save({"a": b"1", "sub": {"b": b"2"}})
    small.save({"a": b"3", "sub": {"b": b"2"}}, first)
    small.index.close()
    return tmp_path / "store"


def replace(path: Path, how: str) -> None:
    path.unlink()
    match how:
        case "a folder":
            path.mkdir()
        case "a pipe":
            os.mkfifo(path)
        case "a link to itself":
            path.symlink_to(path.name)
        case "a link to nothing":
            path.symlink_to("nothing")
        case "a link to another file":
            path.symlink_to("/etc/passwd")
        case "an empty file":
            path.write_bytes(b"")
        case "a huge hole":
            with open(path, "wb") as file:
                file.truncate(1 << 40)


HOWS = (
    "a folder",
    "a pipe",
    "a link to itself",
    "a link to nothing",
    "a link to another file",
    "an empty file",
    "a huge hole",
)


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("top", ["packs", "refs"])
def test_something_else_in_the_place_of_a_file_is_told_or_left_out(folder: Path, top: str, how: str) -> None:
    transport = LocalTransport(folder, durability="fast")
    right = read_everything(transport)
    assert len(right.files) == 2
    for path in sorted(path for path in (folder / top).rglob("*") if path.is_file()):
        content = path.read_bytes()
        replace(path, how)
        found = read_everything(transport)
        for key, files in found.files.items():
            assert files == right.files[key] or isinstance(files, ReplicateError)
        if top == "packs":
            assert any(isinstance(files, ReplicateError) for files in found.files.values())
        else:
            assert len(found.files) == 1
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink()
        path.write_bytes(content)
    assert read_everything(transport) == right


def test_names_that_no_key_has_are_reported_and_left_out(folder: Path) -> None:
    transport = LocalTransport(folder, durability="fast")
    right = read_everything(transport)
    for name in (b"\xff\xfe", b"UPPER", b"with space", b"new\nline", b".DS_Store"):
        (folder / "refs" / os.fsdecode(name)).write_bytes(b"x")
        (folder / "packs" / os.fsdecode(name)).write_bytes(b"x")
    found = read_everything(transport)
    assert found.files == right.files
    assert len(found.damage) == 5

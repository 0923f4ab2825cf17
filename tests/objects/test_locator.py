from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given

from replicate.errors import CorruptionError, InvalidInputError
from replicate.objects import canonical, locator
from replicate.objects.codecs import Encoding
from replicate.objects.frames import FrameRef
from replicate.objects.ids import Kind, ObjectID, object_id
from replicate.objects.locator import Locator, LocatorView, read_framed, read_locator
from replicate.objects.pack import FRAME, HEADER, Entry, Place, encode_entries
from replicate.transport import MemoryTransport
from tests.builders import BuiltPack, Frame, build_pack, some_id, zstd_frame
from tests.strategies import frame_refs, locators

HOLDER = some_id("holder")
HOLDER_BYTES = 1 << 27


def located(name: str, offset: int = HEADER.size, size: int = 0) -> Entry:
    return Entry(some_id(name), Kind.BLOB, Encoding.RAW, 0, offset, FRAME.size + size, size)


def meta_pack(found: Locator, seed: int = 0, encoding: int = Encoding.RAW) -> tuple[BuiltPack, FrameRef]:
    """Return a pack that holds a locator, and its place."""
    data = found.encode()
    made = Frame(data, Kind.LOCATOR) if encoding == Encoding.RAW else zstd_frame(data, Kind.LOCATOR)
    built = build_pack([made], bytes([seed]) * 16, is_meta=True)
    (entry,) = built.entries
    return built, FrameRef(built.pack_id, entry.offset, entry.length)


def by_pack(places: tuple[Place, ...]) -> list[Place]:
    return sorted(places, key=lambda place: (place.pack, place.entry.object_id))


# -- encoding


@given(locators())
def test_a_locator_comes_back(found: Locator) -> None:
    data = found.encode()
    again = Locator.decode(data, HOLDER, HOLDER_BYTES, "a locator")
    own = tuple(place.entry for place in again.places if place.pack == HOLDER)
    assert sorted(own) == sorted(found.own)
    others = tuple(place for place in again.places if place.pack != HOLDER)
    assert by_pack(others) == by_pack(found.places)
    for name in ("older", "total", "whole", "spread"):
        assert getattr(again, name) == getattr(found, name)
    assert Locator(own, others, again.older, again.total, again.whole, again.spread).encode() == data


@given(frame_refs)
def test_a_place_of_a_frame_comes_back(ref: FrameRef) -> None:
    assert FrameRef.decode(ref.encode(), "a record") == ref


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        [bytes(32), 1],
        [bytes(32), 1, 2, 3],
        [bytes(31), 1, 2],
        [b"", 1, 2],
        ["a" * 32, 1, 2],
        [bytes(32), -1, 2],
        [bytes(32), True, 2],
        [bytes(32), 1.0, 2],
        [bytes(32), 1, (256 << 20) + 1],
        [bytes(32), 1, 1 << 64],
    ],
)
def test_what_is_no_place_of_a_frame_is_refused(value: Any) -> None:
    with pytest.raises(CorruptionError) as caught:
        FrameRef.decode(value, "ref record x")
    assert str(caught.value) == "ref record x is damaged: not [pack, offset, length]"


def test_an_empty_pack_id_stands_for_the_pack_that_holds_the_locator() -> None:
    assert FrameRef.decode([b"", 32, 60], "a locator", HOLDER) == FrameRef(HOLDER, 32, 60)
    found = Locator((located("a"),), (), (), 1, 1)
    (place,) = Locator.decode(found.encode(), HOLDER, HOLDER_BYTES, "a locator").places
    assert place == Place(HOLDER, HOLDER_BYTES, located("a"))


def test_a_pack_has_one_section_even_if_its_size_was_not_always_known() -> None:
    pack = some_id("pack")
    found = Locator((), (Place(pack, 0, located("a")), Place(pack, 1_000, located("b"))), (), 2, 2)
    again = Locator.decode(found.encode(), HOLDER, HOLDER_BYTES, "a locator")
    assert {(place.pack, place.pack_bytes) for place in again.places} == {(pack, 1_000)}


def test_a_locator_of_too_many_objects_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    three = [located(name) for name in "abc"]
    largest = Locator(tuple(three[:2]), (), (), 2, 2)
    monkeypatch.setattr(locator, "MAX_RAW_BYTES", len(largest.encode()))
    largest.encode()
    with pytest.raises(InvalidInputError) as caught:
        Locator(tuple(three[:2]), (Place(some_id("p"), 0, three[2]),), (), 3, 3).encode()
    assert str(caught.value) == "a commit of 3 objects is too large to be saved"


LOCATOR = Locator((located("a"),), (Place(some_id("p"), 1_000, located("b")),), (), 2, 2)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"v": 2}, "not a locator"),
        ({"v": True}, "not a locator"),
        ({"packs": {}}, "it names no packs"),
        ({"packs": [[b""]]}, "not [pack, size, entries]"),
        ({"packs": [["", 0, b""]]}, "not [pack, size, entries]"),
        ({"packs": [[b"", 0.0, b""]]}, "not [pack, size, entries]"),
        ({"packs": [[bytes(31), 0, b""]]}, "not [pack, size, entries]"),
        ({"packs": [[b"", 1, b""]]}, "a pack has a wrong size"),
        ({"packs": [[bytes(32), -1, b""]]}, "a pack has a wrong size"),
        ({"packs": [[bytes(32), 0, b""], [b"", 0, b""]]}, "its packs are not in order"),
        ({"packs": [[b"", 0, b""], [b"", 0, b""]]}, "its packs are not in order"),
        ({"packs": [[b"", 0, b"\0"]]}, "the entry table has a wrong length"),
        ({"packs": [[b"", 0, encode_entries([located("a")]) * 2]]}, "the entry table is not in order"),
        ({"packs": [[bytes(32), 91, encode_entries([located("a")])]]}, "an entry lies outside of the pack"),
        ({"older": None}, "it names more than 16 older locators"),
        ({"older": [[bytes(32), 1, 2]] * 17}, "it names more than 16 older locators"),
        ({"older": [[bytes(32), 1]]}, "not [pack, offset, length]"),
        ({"total": 2.0}, "it has no totals"),
        ({"whole": -1}, "it has no totals"),
    ],
)
def test_a_locator_that_breaks_a_rule_is_refused(change: dict[str, Any], why: str) -> None:
    data = canonical.encode({**canonical.decode(LOCATOR.encode(), ""), **change})
    with pytest.raises(CorruptionError) as caught:
        Locator.decode(data, HOLDER, HOLDER_BYTES, "the locator x")
    assert str(caught.value) == f"the locator x is damaged: {why}"
    assert caught.value.where == "the locator x"


# -- reading from packs


@pytest.mark.parametrize("encoding", [Encoding.RAW, Encoding.ZSTD])
def test_a_locator_is_read_from_its_place_alone(encoding: int) -> None:
    found = Locator(tuple(located(f"{number}") for number in range(50)), (), (), 50, 50)
    built, ref = meta_pack(found, encoding=encoding)
    transport = MemoryTransport()
    transport.put(built.key, built.data)
    assert [place.entry for place in read_locator(transport, ref).places] == sorted(found.own)


def test_a_view_knows_its_locator_and_those_that_it_names_but_not_theirs() -> None:
    transport = MemoryTransport()
    oldest, oldest_ref = meta_pack(Locator((located("oldest"),), (), (), 1, 1), 1)
    older, older_ref = meta_pack(Locator((located("older"),), (), (oldest_ref,), 2, 1), 2)
    newest, newest_ref = meta_pack(Locator((located("newest"),), (), (older_ref,), 3, 1), 3)
    for built in (oldest, older, newest):
        transport.put(built.key, built.data)
    view = LocatorView(transport, [newest_ref])
    assert {place.entry.object_id for place in view} == {some_id("newest"), some_id("older")}
    assert len(view) == 2
    assert [place.pack for place in view.find(some_id("older"))] == [older.pack_id]
    assert list(view.find(some_id("oldest"))) == []


def test_a_view_gives_every_place_the_newest_first() -> None:
    transport = MemoryTransport()
    older, older_ref = meta_pack(Locator((located("a"),), (), (), 1, 1), 1)
    newest, newest_ref = meta_pack(Locator((located("a"),), (), (older_ref,), 2, 1), 2)
    for built in (older, newest):
        transport.put(built.key, built.data)
    view = LocatorView(transport, [newest_ref])
    assert [place.pack for place in view.find(some_id("a"))] == [newest.pack_id, older.pack_id]


def test_a_view_reads_nothing_before_it_is_asked() -> None:
    view = LocatorView(MemoryTransport(), [FrameRef(some_id("pack"), 32, 60)])
    with pytest.raises(CorruptionError) as caught:
        view.find(some_id("a"))
    assert str(caught.value) == f"the locator cannot be read: pack {some_id('pack').hex()} is missing"


@pytest.mark.parametrize(
    ("made", "ref", "why"),
    [
        (Frame(b"\x90", Kind.TREE), (32, 61), "the frame is of another kind"),
        (Frame(b"\x90", Kind.PACKSET, depth=1), (32, 61), "the frame is of another kind"),
        (Frame(b"\x90", Kind.PACKSET, Encoding.FILL), (32, 61), "the frame is of another kind"),
        (Frame(b"\x90", Kind.PACKSET, Encoding.CONCAT), (32, 61), "the frame is of another kind"),
        (Frame(b"\x90", Kind.PACKSET, Encoding.PATCH, depth=1), (32, 61), "the frame is of another kind"),
        (Frame(b"\x90", Kind.PACKSET, raw_length=1 << 40), (32, 61), "the frame is of another kind"),
        (Frame(b"\x90", Kind.PACKSET), (32, 59), "the pack is cut short"),
        (Frame(b"\x90", Kind.PACKSET), (32, 1 << 20), "the pack is cut short"),
        (Frame(b"\x90", Kind.PACKSET), (1 << 20, 61), "the pack is cut short"),
        (Frame(b"\x90", Kind.PACKSET, claimed=some_id("x")), (32, 61), "its bytes do not match its id"),
    ],
)
def test_a_frame_that_is_no_packset_is_refused(made: Frame, ref: tuple[int, int], why: str) -> None:
    built = build_pack([made])
    transport = MemoryTransport()
    transport.put(built.key, built.data)
    with pytest.raises(CorruptionError) as caught:
        read_framed(transport, FrameRef(built.pack_id, *ref), Kind.PACKSET)
    assert str(caught.value) == f"the packset in pack {built.pack_id.hex()} is damaged: {why}"
    assert caught.value.where == f"pack {built.pack_id.hex()}"


@pytest.mark.parametrize("ref", [(31, 61), (33, 61), (32, 62), (32, 60)])
def test_a_place_that_is_no_frame_is_refused(ref: tuple[int, int]) -> None:
    built = build_pack([Frame(b"\x90", Kind.PACKSET)])
    transport = MemoryTransport()
    transport.put(built.key, built.data)
    with pytest.raises(CorruptionError, match=f"in pack {built.pack_id.hex()} is damaged: "):
        read_framed(transport, FrameRef(built.pack_id, *ref), Kind.PACKSET)


def test_a_frame_is_given_with_its_id() -> None:
    data = canonical.encode([bytes(32)])
    built = build_pack([zstd_frame(data, Kind.PACKSET)])
    transport = MemoryTransport()
    transport.put(built.key, built.data)
    (entry,) = built.entries
    found = read_framed(transport, FrameRef(built.pack_id, entry.offset, entry.length), Kind.PACKSET)
    assert found == (object_id(Kind.PACKSET, data), data)
    assert isinstance(found[0], ObjectID)

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicate.errors import CorruptionError, InvalidInputError
from replicate.objects import canonical
from replicate.objects.frames import FrameRef
from replicate.objects.ids import Kind, ObjectID
from replicate.refs import CommitRecord, EndRecord, RefStore, StartRecord, UnknownRecord
from replicate.refs.names import RecordName
from replicate.refs.records import MAX_RECORD_BYTES, Packset
from replicate.transport import KeyInfo, MemoryTransport
from tests.builders import SESSION, Frame, SmallStore, build_pack, some_id, zstd_frame
from tests.strategies import ids

EXPERIMENT = some_id("experiment")


class Reads(MemoryTransport):
    """Notes what is read, and may lose keys between a listing and a read."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[tuple[str, int, int | None]] = []
        self.ghosts: list[str] = []
        self.listed: list[str] = []

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        self.read.append((key, start, end))
        return super().get(key, start, end)

    def list(self, prefix: str, *, details: bool = True) -> Iterator[KeyInfo]:
        self.listed.append(prefix)
        yield from super().list(prefix)
        yield from (KeyInfo(key, 1, 0) for key in self.ghosts if key.startswith(prefix))


@pytest.fixture
def transport() -> Reads:
    return Reads()


@pytest.fixture
def damage() -> list[CorruptionError]:
    return []


@pytest.fixture
def refs(transport: Reads, damage: list[CorruptionError]) -> RefStore:
    return RefStore(transport, damage.append)


def end(refs: RefStore, seq: int, experiment: ObjectID = EXPERIMENT, **fields: Any) -> EndRecord:
    record = refs.publish(experiment, seq, SESSION, "e", {"status": "finished", "time": seq, "duration": 1, **fields})
    assert isinstance(record, EndRecord)
    return record


def test_what_was_published_is_listed_in_the_order_of_keys(refs: RefStore, transport: Reads) -> None:
    published = [end(refs, seq) for seq in (3, 1, 2)]
    fresh = RefStore(transport, lambda error: None)
    assert list(fresh.list()) == sorted(published, key=lambda record: record.name.key)
    assert [record.name.seq for record in fresh.list()] == [1, 2, 3]


def test_an_experiments_records_can_be_listed_alone(refs: RefStore) -> None:
    others = [end(refs, 1, some_id(f"{number}")) for number in range(10)]
    own = end(refs, 1)
    assert refs.list(EXPERIMENT) == (own,)
    assert len(refs.list()) == 11
    assert refs.list(some_id("3")) == (others[3],)
    assert refs.list(some_id("none")) == ()


def test_a_record_is_durable_under_its_key_when_publish_returns(refs: RefStore, transport: Reads) -> None:
    record = end(refs, 1)
    assert [info.key for info in transport.list("")] == [record.name.key]


def test_a_record_that_is_published_twice_is_one_record(refs: RefStore, transport: Reads) -> None:
    assert end(refs, 1) == end(refs, 1)
    assert len(list(transport.list("refs/"))) == 1


def test_a_record_is_read_once(refs: RefStore, transport: Reads) -> None:
    record = end(refs, 1)
    fresh = RefStore(transport, lambda error: None)
    assert fresh.list() == fresh.list() == (record,)
    assert fresh.find(record.name) == record
    assert transport.read == [(record.name.key, 0, MAX_RECORD_BYTES + 1)]
    refs.list()  # what it wrote itself it does not read
    assert len(transport.read) == 1


def test_a_record_that_is_not_there_is_not_found(refs: RefStore, damage: list[CorruptionError]) -> None:
    assert refs.find(RecordName(EXPERIMENT, 1, SESSION, "e", "-", "00" * 16)) is None
    assert damage == []


def test_i2_a_record_that_vanishes_after_the_listing_is_looked_for_once_more_and_reported(
    refs: RefStore, transport: Reads, damage: list[CorruptionError]
) -> None:
    transport.ghosts = [RecordName(EXPERIMENT, 1, SESSION, "e", "-", "00" * 16).key]
    record = end(refs, 2)
    assert refs.list() == (record,)
    (error,) = damage
    assert error.message == f"{transport.ghosts[0]} is listed, but it is not in the store"
    assert transport.listed == ["refs/", "cat/"] * 2


# -- damage


@pytest.mark.parametrize("data", [b"", b"junk", b"RPLREF\x00\x01", b"RPLREF\x00\x01\x80", bytes(MAX_RECORD_BYTES + 5)])
def test_a_damaged_record_is_reported_once_and_left_out(
    refs: RefStore, transport: Reads, damage: list[CorruptionError], data: bytes
) -> None:
    sound, broken = end(refs, 1), end(refs, 2)
    transport.put(broken.name.key, data)
    fresh = RefStore(transport, damage.append)
    assert fresh.list() == fresh.list() == (sound,)
    assert fresh.find(broken.name) is None
    (error,) = damage
    assert error.message.startswith(f"ref record {broken.name.key} is damaged: ")
    assert error.where == broken.name.key


def test_a_huge_file_among_the_records_is_not_read_whole(refs: RefStore, transport: Reads) -> None:
    key = end(refs, 1).name.key
    transport.put(key, bytes(1 << 20))
    assert RefStore(transport, lambda error: None).list() == ()
    assert transport.read == [(key, 0, MAX_RECORD_BYTES + 1)]


@pytest.mark.parametrize("key", ["refs/readme", "refs/aa/.nfs0001", "refs/00/" + "0" * 64])
def test_a_file_that_is_no_record_is_reported_and_left_out(
    refs: RefStore, transport: Reads, damage: list[CorruptionError], key: str
) -> None:
    record = end(refs, 1)
    transport.put(key, b"junk")
    assert refs.list() == (record,)
    assert [str(error) for error in damage] == [f"{key} is not the key of a ref record"]


def test_what_lies_beside_the_records_is_not_looked_at(
    refs: RefStore, transport: Reads, damage: list[CorruptionError]
) -> None:
    for key in ("later/x", "refsx/y", "packs/aa/x"):
        transport.put(key, b"junk")
    assert refs.list() == ()
    assert damage == []


def test_a_record_that_could_not_be_read_back_is_not_published(refs: RefStore, transport: Reads) -> None:
    with pytest.raises(CorruptionError):
        end(refs, 1, status="lost")
    with pytest.raises(InvalidInputError):
        end(refs, 1, message="x" * MAX_RECORD_BYTES)
    assert list(transport.list("")) == []


# -- kinds


def test_records_of_unknown_kinds_are_kept_and_listed(refs: RefStore, transport: Reads) -> None:
    batch = refs.publish(EXPERIMENT, 1, SESSION, "m", {"values": [1, b"\0"]}, some_id("commit").hex())
    later = refs.publish(EXPERIMENT, 1, SESSION, "z", {"anything": None})
    fresh = RefStore(transport, lambda error: None)
    assert set(map(type, fresh.list())) == {UnknownRecord}
    assert fresh.list() == refs.list() == (batch, later)
    assert isinstance(batch, UnknownRecord)
    assert dict(batch.fields) == {"v": 1, "kind": "m", "values": [1, b"\0"]}


def test_every_known_kind_is_listed_as_its_own(tmp_path: Path) -> None:
    store = SmallStore(tmp_path)
    saved = store.save({"a": b"1"})
    experiment = saved.record.commit_id
    store.refs.publish(experiment, 0, SESSION, "s", {"time": 1, "capture": {"user": "ada"}})
    end(store.refs, 0, experiment)
    fresh = RefStore(store.transport, store.damage.append)
    assert [type(record) for record in fresh.list(experiment)] == [CommitRecord, EndRecord, StartRecord]
    assert store.damage == []
    store.index.close()


# -- packsets


def packset_frame(value: Any) -> tuple[MemoryTransport, FrameRef]:
    built = build_pack([zstd_frame(canonical.encode(value), Kind.PACKSET)])
    transport = MemoryTransport()
    transport.put(built.key, built.data)
    (entry,) = built.entries
    return transport, FrameRef(built.pack_id, entry.offset, entry.length)


@given(st.frozensets(ids, max_size=20))
def test_a_listed_packset_is_as_it_stands(packs: frozenset[ObjectID]) -> None:
    refs = RefStore(MemoryTransport(), lambda error: None)
    assert refs.read_packset(Packset(packs)) == packs


@given(st.frozensets(ids, max_size=20))
def test_a_packset_in_a_frame_includes_the_pack_that_holds_it(packs: frozenset[ObjectID]) -> None:
    transport, ref = packset_frame(sorted(map(bytes, packs)))
    refs = RefStore(transport, lambda error: None)
    assert refs.read_packset(Packset(at=ref)) == packs | {ref.pack}


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (None, "not a list of pack ids"),
        ({"packs": []}, "not a list of pack ids"),
        ([bytes(31)], "not a list of pack ids"),
        (["a" * 32], "not a list of pack ids"),
        ([b"b" * 32, b"a" * 32], "not sorted"),
        ([b"a" * 32, b"a" * 32], "not sorted"),
    ],
)
def test_a_frame_that_is_no_packset_is_refused(value: Any, why: str) -> None:
    transport, ref = packset_frame(value)
    with pytest.raises(CorruptionError) as caught:
        RefStore(transport, lambda error: None).read_packset(Packset(at=ref))
    assert str(caught.value) == f"the packset in pack {ref.pack.hex()} is damaged: {why}"


def test_a_packset_whose_pack_is_missing_is_told_by_its_pack() -> None:
    with pytest.raises(CorruptionError) as caught:
        RefStore(MemoryTransport(), lambda error: None).read_packset(Packset(at=FrameRef(some_id("gone"), 32, 60)))
    assert str(caught.value) == f"the packset cannot be read: pack {some_id('gone').hex()} is missing"


def test_a_frame_of_another_kind_is_no_packset() -> None:
    built = build_pack([Frame(canonical.encode([]), Kind.LOCATOR)])
    transport = MemoryTransport()
    transport.put(built.key, built.data)
    with pytest.raises(CorruptionError, match="the frame is of another kind"):
        RefStore(transport, lambda error: None).read_packset(Packset(at=FrameRef(built.pack_id, 32, 61)))

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicate.errors import CorruptionError, InvalidInputError
from replicate.objects import canonical
from replicate.objects.frames import MAX_PACK_BYTES
from replicate.objects.ids import ObjectID, record_hash
from replicate.objects.model import MAX_COMMIT_BYTES, Commit, commit_id, encode_commit
from replicate.refs.names import RecordName
from replicate.refs.records import (
    MAGIC,
    MAX_RECORD_BYTES,
    CommitRecord,
    EndRecord,
    Packset,
    StartRecord,
    UnknownRecord,
    decode_record,
    encode_record,
)
from tests.builders import SESSION, refusal, some_id
from tests.strategies import commits, frame_refs, ids, int64s, msgpack_values, sessions, texts, value_maps

EXPERIMENT = some_id("experiment")
numbers = st.integers(0, 1 << 60)
packsets = st.builds(Packset, st.frozensets(ids, max_size=5)) | frame_refs.map(lambda ref: Packset(at=ref))
more = st.dictionaries(texts.map("x-".__add__), msgpack_values, max_size=2)

ROOT = encode_commit(Commit(tree=some_id("tree"), author="ada@engine", time_ns=1, nonce=bytes(16)))
ROOT_ID = commit_id(ROOT)
PLACE = [bytes(some_id("pack")), 32, 60]
FIELDS: dict[str, Any] = {"commit": ROOT, "packset": [bytes(some_id("pack"))], "meta": [], "locator": PLACE}


# -- every kind comes back


@given(
    commits(),
    packsets,
    st.lists(ids, max_size=3),
    frame_refs,
    st.lists(numbers, min_size=4, max_size=4),
    sessions,
    more,
)
def test_a_commits_record_comes_back(
    commit: Commit, packset: Packset, meta: list[ObjectID], locator: Any, counts: list[int], session: str, extra: Any
) -> None:
    encoded = encode_commit(commit)
    wanted = commit_id(encoded)
    fields = {
        **extra,
        "commit": encoded,
        **packset.fields(),
        "meta": [bytes(one) for one in meta],
        "locator": locator.encode(),
        **dict(zip(("files", "bytes", "new_bytes", "duration"), counts, strict=True)),
    }
    name, data = encode_record(commit.experiment or wanted, commit.seq, session, "c", fields, wanted.hex())
    record = decode_record(RecordName.parse(name.key), data)
    assert isinstance(record, CommitRecord)
    assert encode_commit(record.commit) == encoded
    assert (record.name, record.commit_id, record.packset) == (name, wanted, packset)
    assert (record.meta, record.locator) == (tuple(meta), locator)
    assert [record.files, record.bytes, record.new_bytes, record.duration_ns] == counts


@given(int64s, value_maps, st.none() | ids, packsets, st.none() | frame_refs, more)
def test_a_sessions_start_comes_back(
    time: int, capture: Any, environment: ObjectID | None, packset: Packset, locator: Any, extra: Any
) -> None:
    fields: dict[str, Any] = {**extra, "time": time, "capture": capture, **packset.fields()}
    if environment is not None:
        fields["environment"] = environment
    if locator is not None:
        fields["locator"] = locator.encode()
    name, data = encode_record(EXPERIMENT, 3, SESSION, "s", fields)
    record = decode_record(RecordName.parse(name.key), data)
    assert isinstance(record, StartRecord)
    assert (record.name, record.time_ns, record.environment, record.locator) == (name, time, environment, locator)
    assert record.packset == (packset if environment is not None else Packset())
    assert canonical.encode(dict(record.capture)) == canonical.encode(capture)


@given(int64s, st.sampled_from(["finished", "failed", "stopped"]), numbers, st.none() | st.tuples(texts, texts), more)
def test_a_sessions_end_comes_back(
    time: int, status: str, duration: int, exception: tuple[str, str] | None, extra: Any
) -> None:
    fields: dict[str, Any] = {**extra, "time": time, "status": status, "duration": duration}
    if exception is not None:
        fields["exception"] = dict(zip(("type", "message"), exception, strict=True))
    name, data = encode_record(EXPERIMENT, 3, SESSION, "e", fields)
    assert decode_record(RecordName.parse(name.key), data) == EndRecord(
        name, time, status, fields.get("exception"), duration
    )


@given(
    st.sampled_from("abdfghijklmnopqrvwyz"),
    st.dictionaries(texts.filter(lambda key: key not in ("v", "kind")), msgpack_values, max_size=4),
    st.just("-") | ids.map(str),
)
def test_a_record_of_an_unknown_kind_is_kept_with_all_its_keys(kind: str, fields: dict[str, Any], subject: str) -> None:
    name, data = encode_record(EXPERIMENT, 0, SESSION, kind, fields, subject)
    record = decode_record(RecordName.parse(name.key), data)
    assert isinstance(record, UnknownRecord)
    assert record.name == name
    kept = {key: value for key, value in record.fields.items() if key not in ("v", "kind")}
    assert canonical.encode(kept) == canonical.encode(fields)
    assert data == MAGIC + canonical.encode(dict(record.fields))


@given(st.data())
def test_a_flipped_bit_is_always_found(data: st.DataObject) -> None:
    name, record = encode_record(ROOT_ID, 0, SESSION, "c", FIELDS, ROOT_ID.hex())
    flipped = bytearray(record)
    bit = data.draw(st.integers(0, len(record) * 8 - 1))
    flipped[bit // 8] ^= 1 << bit % 8
    error = refusal(lambda: decode_record(name, bytes(flipped)))
    assert error is not None
    assert error.message in (
        f"ref record {name.key} is damaged: its bytes do not match its name",
        f"ref record {name.key} is damaged: it is not a ref record",
    )
    assert error.where == name.key


# -- what is refused


def named(kind: str, fields: dict[str, Any], seq: int = 0, subject: str = "-") -> tuple[RecordName, bytes]:
    return encode_record(ROOT_ID, seq, SESSION, kind, fields, subject)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"commit": None}, "its commit is not the one that its name says"),
        ({"commit": ROOT + b"\0"}, "its commit is not the one that its name says"),
        ({"packset": None}, "packset is not a list of ids"),
        ({"packset": [bytes(31)]}, "packset is not a list of ids"),
        ({"packset": [b"b" * 32, b"a" * 32]}, "packset is not sorted"),
        ({"packset": [b"a" * 32, b"a" * 32]}, "packset is not sorted"),
        ({"packset_at": PLACE}, "it names its packs twice or not at all"),
        ({"meta": [1]}, "meta is not a list of ids"),
        ({"locator": None}, "not [pack, offset, length]"),
        ({"locator": [bytes(32), 0, MAX_PACK_BYTES + 1]}, "not [pack, offset, length]"),
        ({"files": 1.0}, "files is not a number"),
        ({"bytes": True}, "bytes is not a number"),
        ({"duration": "long"}, "duration is not a number"),
    ],
)
def test_a_commits_record_with_a_wrong_key_is_refused(change: dict[str, Any], why: str) -> None:
    name, data = named("c", {**FIELDS, **change}, subject=ROOT_ID.hex())
    with pytest.raises(CorruptionError) as caught:
        decode_record(name, data)
    assert str(caught.value) == f"ref record {name.key} is damaged: {why}"
    assert name.key in caught.value.where


@pytest.mark.parametrize(
    ("kind", "fields", "why"),
    [
        ("e", {"status": "lost"}, "status 'lost' is not known"),
        ("e", {}, "status None is not known"),
        ("e", {"status": "failed", "exception": "E"}, "exception is not a map"),
        ("e", {"status": "failed", "time": None}, "time is not a number"),
        ("s", {"environment": bytes(31)}, "environment is not an id"),
        ("s", {"environment": bytes(32)}, "it names its packs twice or not at all"),
        ("s", {"capture": []}, "capture is not a map"),
        ("s", {"locator": []}, "not [pack, offset, length]"),
    ],
)
def test_another_record_with_a_wrong_key_is_refused(kind: str, fields: dict[str, Any], why: str) -> None:
    name, data = named(kind, fields)
    with pytest.raises(CorruptionError) as caught:
        decode_record(name, data)
    assert str(caught.value) == f"ref record {name.key} is damaged: {why}"


def test_a_commit_under_another_seq_or_experiment_is_refused() -> None:
    why = "its commit is of another experiment or seq than its name says"
    for experiment, seq in ((ROOT_ID, 1), (some_id("other"), 0)):
        name, data = encode_record(experiment, seq, SESSION, "c", FIELDS, ROOT_ID.hex())
        with pytest.raises(CorruptionError) as caught:
            decode_record(name, data)
        assert str(caught.value) == f"ref record {name.key} is damaged: {why}"


def test_a_commit_that_is_damaged_in_a_sound_record_is_told_by_its_id() -> None:
    bad = canonical.encode({"v": 1, "kind": "root"})
    subject = commit_id(bad).hex()
    name, data = encode_record(commit_id(bad), 0, SESSION, "c", {**FIELDS, "commit": bad}, subject)
    with pytest.raises(CorruptionError) as caught:
        decode_record(name, data)
    assert str(caught.value).startswith(f"commit {subject} is damaged: ")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "it is not a ref record"),
        (MAGIC[:-1] + b"\2" + canonical.encode({"v": 1, "kind": "x"}), "it is not a ref record"),
        (MAGIC + bytes(MAX_RECORD_BYTES), "it is not a ref record"),
        (MAGIC, "not msgpack (Unpack failed: incomplete input)"),
        (MAGIC + canonical.encode([]), "it has no version"),
        (MAGIC + canonical.encode({"kind": "x"}), "it has no version"),
        (MAGIC + canonical.encode({"v": True, "kind": "x"}), "it has no version"),
        (MAGIC + canonical.encode({"v": 2, "kind": "x"}), "it is of another kind than its name says"),
        (MAGIC + canonical.encode({"v": 1, "kind": "y"}), "it is of another kind than its name says"),
        (MAGIC + canonical.encode({"v": 1}), "it is of another kind than its name says"),
    ],
)
def test_a_file_that_is_no_record_is_refused(data: bytes, why: str) -> None:
    name = RecordName(EXPERIMENT, 0, SESSION, "x", "-", record_hash(data))
    with pytest.raises(CorruptionError) as caught:
        decode_record(name, data)
    assert str(caught.value) == f"ref record {name.key} is damaged: {why}"


# -- sizes


def test_the_largest_commit_with_400_packs_fits_into_a_record() -> None:
    room = MAX_COMMIT_BYTES - len(ROOT) - 4
    commit = encode_commit(
        Commit(tree=some_id("tree"), author="ada@engine", time_ns=1, nonce=bytes(16), command="x" * room)
    )
    assert MAX_COMMIT_BYTES - 4 < len(commit) <= MAX_COMMIT_BYTES
    packset = sorted(bytes(some_id(f"{number}")) for number in range(400))
    fields = {**FIELDS, "commit": commit, "packset": packset, "meta": packset[:50]}
    name, data = encode_record(commit_id(commit), 0, SESSION, "c", fields, commit_id(commit).hex())
    record = decode_record(name, data)
    assert isinstance(record, CommitRecord)
    assert len(record.packset.packs) == 400


def test_a_record_above_64_kib_is_not_written() -> None:
    room = MAX_RECORD_BYTES - len(encode_record(EXPERIMENT, 0, SESSION, "t", {"note": "x" * 60_000})[1]) + 60_000
    assert len(encode_record(EXPERIMENT, 0, SESSION, "t", {"note": "x" * room})[1]) == MAX_RECORD_BYTES
    with pytest.raises(InvalidInputError) as caught:
        encode_record(EXPERIMENT, 0, SESSION, "t", {"note": "x" * (room + 1)})
    assert str(caught.value) == "a ref record of 65,537 bytes exceeds 65,536"

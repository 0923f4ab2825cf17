"""The vectors of SPEC §16, both ways: what they hold is decoded and encoded again, what they refuse is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from replicate.errors import CorruptionError, InvalidInputError, ReplicateError
from replicate.objects import canonical
from replicate.objects.codecs import Encoding, cast, delta, planes
from replicate.objects.ids import Kind, ObjectID, blob_id, object_id, pack_id, record_hash
from replicate.objects.locator import Locator
from replicate.objects.model import Mode, TreeEntry, commit_id, decode_commit, decode_tree, encode_commit, encode_tree
from replicate.objects.pack import (
    TRAILER,
    Entry,
    PackBuffer,
    Place,
    decode_entries,
    encode_entries,
    pack_key,
    read_footer,
    verify_pack,
)
from replicate.objects.store import ObjectStore
from replicate.refs.catalogs import decode_full, decode_heads, encode_full, encode_heads
from replicate.refs.names import CatalogName, RecordName
from replicate.refs.records import (
    MAGIC,
    CommitRecord,
    EndRecord,
    Packset,
    StartRecord,
    UnknownRecord,
    decode_record,
    encode_record,
)
from replicate.transport import MemoryTransport
from tests.builders import Known

FOLDER = Path(__file__).with_name("vectors")
HOLDER = ObjectID(bytes(31) + b"\1")
HOLDER_BYTES = 12_345

Case = dict[str, Any]


def load(name: str) -> dict[str, list[Case]]:
    found: dict[str, list[Case]] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return found


def cases_of(name: str, part: str) -> list[Any]:
    """Return the cases of a file as pytest's parameters, each with an id to be found by."""
    cases = load(name)[part]
    return [pytest.param(case, id=str(case.get("name", f"{number}"))) for number, case in enumerate(cases)]


def untag(tagged: dict[str, Any]) -> Any:
    """Return the value that a vector's tagged notation stands for."""
    ((tag, value),) = tagged.items()
    match tag:
        case "nil" | "bool" | "str":
            return value
        case "int":
            return int(value)
        case "float":
            return float(value)
        case "bin":
            return bytes.fromhex(value)
        case "array":
            return [untag(item) for item in value]
        case "map":
            return {key: untag(item) for key, item in value}
        case "str_repeat":
            return value[0] * value[1]
        case "bin_repeat":
            return bytes.fromhex(value[0]) * value[1]
        case "array_repeat":
            return [untag(value[0])] * value[1]
        case "map_range":
            return {f"{number:05}": None for number in range(value)}
    raise AssertionError(f"no such tag: {tag}")


def matches(data: bytes, case: Case) -> bool:
    """Tell whether bytes are those of a case; long ones are given by length, beginning and hash."""
    if "hex" in case:
        return data == bytes.fromhex(case["hex"])
    return (len(data), data[:16].hex(), blake3(data).hexdigest()) == (case["length"], case["head"], case["blake3"])


def bytes_of(case: Case) -> bytes:
    """Return the bytes of a case; long ones are made of its value."""
    if "hex" in case:
        return bytes.fromhex(case["hex"])
    prefix = MAGIC if "key" in case else b""
    data = prefix + canonical.encode(untag(case["value"]))
    assert matches(data, case)
    return data


# -- canonical msgpack


@pytest.mark.parametrize("case", cases_of("canonical", "cases"))
def test_a_value_has_the_encoding_of_its_vector_and_comes_back(case: Case) -> None:
    value = untag(case["value"])
    data = canonical.encode(value)
    assert matches(data, case)
    assert repr(canonical.decode(data, "a vector")) == repr(value)  # types, -0.0 and NaN included


@pytest.mark.parametrize("case", cases_of("canonical", "invalid"))
def test_what_is_not_canonical_is_refused(case: Case) -> None:
    if "hex" in case:
        with pytest.raises(CorruptionError, match="a vector is damaged: "):
            canonical.decode(bytes.fromhex(case["hex"]), "a vector")
    else:
        with pytest.raises(InvalidInputError):
            canonical.encode(untag(case["value"]))


# -- ids


@pytest.mark.parametrize("case", cases_of("ids", "cases"))
def test_ids_are_those_of_the_vectors(case: Case) -> None:
    given = case["input"]
    data = bytes(i % 251 for i in range(given["mod251"])) if "mod251" in given else bytes.fromhex(given["hex"])
    match case["of"]:
        case "pack":
            assert pack_id(data).hex() == case["id"]
        case "record":
            assert record_hash(data) == case["id"]
        case "blob" | "tree" | "commit" | "locator" | "packset":
            assert object_id(Kind[case["of"].upper()], data).hex() == case["id"]
        case _:  # catalogs, plans and hints, of which this version writes and reads none
            assert blake3(data, derive_key_context=case["context"]).digest(16).hex() == case["id"]


# -- trees and commits


@pytest.mark.parametrize("case", cases_of("trees", "cases"))
def test_a_tree_has_the_encoding_of_its_vector_and_comes_back(case: Case) -> None:
    entries = [
        TreeEntry(bytes.fromhex(one["name"]), Mode(one["mode"]), one["size"], ObjectID.parse(one["id"]))
        for one in case["entries"]
    ]
    data = encode_tree(reversed(entries))
    assert data.hex() == case["hex"]
    assert decode_tree(data, "a vector") == entries
    assert object_id(Kind.TREE, data).hex() == case["id"]


@pytest.mark.parametrize("case", cases_of("trees", "invalid"))
def test_what_is_no_tree_is_refused(case: Case) -> None:
    with pytest.raises(CorruptionError, match="a vector is damaged: "):
        decode_tree(bytes.fromhex(case["hex"]), "a vector")


@pytest.mark.parametrize("case", cases_of("commits", "cases"))
def test_a_commit_has_the_encoding_of_its_vector_and_comes_back(case: Case) -> None:
    data = bytes_of(case)
    commit = decode_commit(data, "a vector")
    assert matches(encode_commit(commit), case)
    assert commit_id(data).hex() == case["id"]
    value = untag(case["value"])
    for key in ("experiment", "seq", "step", "metrics") if commit.is_root else ("params", "nonce", "tags"):
        assert repr(commit.extra.get(key)) == repr(value.pop(key, None))  # of the other kind, and kept
    assert (commit.tree, commit.author, commit.time_ns) == (value["tree"], value["author"], value["time"])
    assert list(commit.parents) == value["parents"]
    assert commit.experiment == value.get("experiment")
    assert (commit.seq, commit.step) == (value.get("seq", 0), value.get("step"))
    assert repr(dict(commit.params)) == repr(value.get("params", {}))
    assert repr(dict(commit.metrics)) == repr(value.get("metrics", {}))


@pytest.mark.parametrize("case", cases_of("commits", "invalid"))
def test_what_is_no_commit_is_refused(case: Case) -> None:
    with pytest.raises(CorruptionError, match="a vector is damaged: "):
        decode_commit(bytes_of(case), "a vector")


# -- packs


def entries_of(case: Case) -> list[Entry]:
    return [
        Entry(
            ObjectID.parse(one["id"]),
            one["kind"],
            one["encoding"],
            one["depth"],
            one["offset"],
            one["length"],
            one["raw_length"],
        )
        for one in case["entries"]
    ]


def check_objects(transport: MemoryTransport, pack: ObjectID, size: int, entries: list[Entry], case: Case) -> None:
    """Read every object of a pack; those with an error must fail with a typed one, the others must be right."""
    objects = ObjectStore(transport, Known(Place(pack, size, entry) for entry in entries))
    for one in case["objects"]:
        wanted = ObjectID.parse(one["id"])
        if case["name"] == "frame: CRC" and "error" in one:  # its id proves it; who checks packs checks this too
            assert blob_id(objects.read(wanted)) == wanted
            with pytest.raises(CorruptionError, match="its checksum does not match"):
                verify_pack(transport, pack, size)
        elif "error" not in one:
            assert objects.read(wanted, Kind(one["kind"])).hex() == one["hex"]
        elif one["kind"] in list(Kind):
            with pytest.raises(ReplicateError, match=r"[0-9a-f]{64}"):
                objects.read(wanted, Kind(one["kind"]))
        else:  # nobody can ask for it by its kind
            for kind in Kind:
                with pytest.raises(ReplicateError, match=wanted.hex()):
                    objects.read(wanted, kind)


@pytest.mark.parametrize("case", cases_of("packs", "cases"))
def test_a_pack_opens_and_gives_the_objects_of_its_vector(case: Case) -> None:
    data = bytes.fromhex(case["hex"])
    pack = pack_id(data)
    assert pack.hex() == case["id"]
    transport = MemoryTransport()
    transport.put(pack_key(pack), data)
    entries = entries_of(case)
    assert verify_pack(transport, pack, len(data)) == entries
    check_objects(transport, pack, len(data), entries, case)


@pytest.mark.parametrize("case", cases_of("packs", "cases"))
def test_a_pack_is_written_as_in_its_vector(case: Case) -> None:
    data = bytes.fromhex(case["hex"])
    buffer = PackBuffer()
    for entry in sorted(entries_of(case), key=lambda one: one.offset):
        payload = data[entry.offset + 60 : entry.offset + entry.length]
        buffer.add(entry.kind, entry.encoding, entry.depth, entry.raw_length, entry.object_id, payload)
    _, view = buffer.seal(data[16:32], is_meta=bool(data[8]))
    (footer, *_) = TRAILER.unpack_from(data, len(data) - TRAILER.size)
    assert bytes(view[:footer]) == data[:footer]
    assert decode_entries(encode_entries(buffer.entries), "a vector") == entries_of(case)


@pytest.mark.parametrize(
    "case", [one for one in load("packs")["invalid"] if one["fails"] == "open"], ids=lambda c: c["name"]
)
def test_a_pack_that_is_wrong_as_a_whole_does_not_verify(case: Case) -> None:
    data = bytes.fromhex(case["hex"])
    pack = pack_id(data)
    transport = MemoryTransport()
    transport.put(pack_key(pack), data)
    with pytest.raises(CorruptionError, match=f"^pack {pack.hex()} is damaged: ") as caught:
        verify_pack(transport, pack, len(data))
    assert caught.value.where == pack_key(pack)


@pytest.mark.parametrize(
    "case", [one for one in load("packs")["invalid"] if one["fails"] == "read"], ids=lambda c: c["name"]
)
def test_a_broken_object_does_not_spoil_the_others_of_its_pack(case: Case) -> None:
    data = bytes.fromhex(case["hex"])
    pack = pack_id(data)
    transport = MemoryTransport()
    transport.put(pack_key(pack), data)
    entries = read_footer(transport, pack, len(data))
    assert entries == entries_of(case)
    check_objects(transport, pack, len(data), entries, case)


# -- encodings for weights


def decode_payload(case: Case) -> bytes:
    payload, base = bytes.fromhex(case["payload"]), bytes.fromhex(case.get("base", ""))
    match Encoding(case["encoding"]):
        case Encoding.PLANES:
            return planes.decode(payload, case["raw_length"], "a vector")
        case Encoding.DELTA:
            return delta.decode(payload, case["raw_length"], base, "a vector")
        case Encoding.CAST:
            return cast.decode(payload, case["raw_length"], base, "a vector")
        case other:
            raise AssertionError(f"not an encoding for weights: {other}")


@pytest.mark.parametrize("case", cases_of("encodings", "cases"))
def test_a_payload_decodes_to_the_bytes_of_its_vector(case: Case) -> None:
    assert decode_payload(case).hex() == case["hex"]


@pytest.mark.parametrize("case", cases_of("encodings", "invalid"))
def test_a_payload_that_breaks_a_rule_is_refused(case: Case) -> None:
    with pytest.raises(CorruptionError, match=r"^a vector is damaged: "):
        decode_payload(case)


# -- locators


@pytest.mark.parametrize("case", cases_of("locators", "cases"))
def test_a_locator_has_the_encoding_of_its_vector_and_comes_back(case: Case) -> None:
    data = bytes_of(case)
    locator = Locator.decode(data, HOLDER, HOLDER_BYTES, "a vector")
    value = untag(case["value"])
    assert (locator.total, locator.whole, locator.spread) == (value["total"], value["whole"], value.get("spread", 0))
    value["older"] = [[pack or bytes(HOLDER), offset, length] for pack, offset, length in value["older"]]
    assert [ref.encode() for ref in locator.older] == value["older"]
    expected = []
    for section in case["packs"]:
        pack, size = (ObjectID.parse(section["pack"]), section["size"]) if section["pack"] else (HOLDER, HOLDER_BYTES)
        expected += [Place(pack, size, entry) for entry in entries_of(section)]
    assert list(locator.places) == expected
    own = tuple(place.entry for place in locator.places if place.pack == HOLDER)
    others = tuple(place for place in locator.places if place.pack != HOLDER)
    again = Locator(own, others, locator.older, locator.total, locator.whole, locator.spread).encode()
    assert again == canonical.encode(value)
    assert object_id(Kind.LOCATOR, data).hex() == case["id"]


@pytest.mark.parametrize("case", cases_of("locators", "invalid"))
def test_what_is_no_locator_is_refused(case: Case) -> None:
    with pytest.raises(CorruptionError, match="a vector is damaged: "):
        Locator.decode(bytes_of(case), HOLDER, HOLDER_BYTES, "a vector")


# -- records


@pytest.mark.parametrize("case", cases_of("records", "cases"))
def test_a_record_has_the_bytes_and_the_key_of_its_vector_and_comes_back(case: Case) -> None:
    data = bytes_of(case)
    name = RecordName.parse(case["key"])
    assert (name.key, name.kind, name.seq) == (case["key"], case["kind"], case["seq"])
    value = untag(case["value"])
    fields = {key: item for key, item in value.items() if key not in ("v", "kind")}
    again = encode_record(name.experiment, name.seq, name.session, name.kind, fields, name.subject)
    assert again == (name, data)
    record = decode_record(name, data)
    match record:
        case CommitRecord():
            assert encode_commit(record.commit) == value["commit"]
            assert (record.files, record.bytes, record.new_bytes, record.duration_ns) == (4, 12, 12, 5_000_000)
            assert record.locator.encode() == value["locator"]
            assert list(record.meta) == value["meta"]
            assert record.packset.fields().items() <= value.items()
        case StartRecord():
            assert (record.time_ns, dict(record.capture)) == (value["time"], value["capture"])
            assert record.environment == value["environment"]
            assert record.packset == Packset(frozenset(map(ObjectID, value["packset"])))
            assert record.locator is not None
            assert record.locator.encode() == value["locator"]
        case EndRecord():
            assert (record.time_ns, record.status, record.duration_ns) == (
                value["time"],
                value["status"],
                value["duration"],
            )
            assert record.exception == value.get("exception")
        case UnknownRecord():
            assert repr(record.fields) == repr(value)


@pytest.mark.parametrize("case", cases_of("records", "invalid"))
def test_what_is_no_record_is_refused(case: Case) -> None:
    with pytest.raises(CorruptionError, match=r" is damaged: | is not the key of a ref record"):
        decode_record(RecordName.parse(case["key"]), bytes_of(case))


# -- catalogs


@pytest.mark.parametrize("case", cases_of("catalogs", "cases"))
def test_a_catalog_tells_what_its_vector_tells(case: Case) -> None:
    name, data, value = CatalogName.parse(case["key"]), bytes_of(case), untag(case["value"])
    if name.shard is None:
        heads = decode_heads(name, data)
        first, last = value["shards"]
        again = encode_heads(first, last, value["of"], value["replaces"], value["experiments"])
        told = [{"id": key, **{k: v for k, v in one.items() if k != "id"}} for key, one in heads.experiments.items()]
        assert (sorted(heads.of), sorted(heads.replaces), told) == (
            value["of"],
            value["replaces"],
            value["experiments"],
        )
        assert decode_heads(*again).experiments == heads.experiments
    else:
        full = decode_full(name, data)
        again = encode_full(name.shard, dict(value["records"]), value["replaces"])
        assert ([list(one) for one in full.records.items()], sorted(full.replaces)) == (
            value["records"],
            value["replaces"],
        )
        assert decode_full(*again).records == full.records


@pytest.mark.parametrize("case", cases_of("catalogs", "invalid"))
def test_what_is_no_catalog_is_refused(case: Case) -> None:
    name = CatalogName.parse(case["key"])
    with pytest.raises(CorruptionError, match=r"is damaged: "):
        (decode_heads if name.shard is None else decode_full)(name, bytes_of(case))

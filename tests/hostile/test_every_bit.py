"""Every single bit of a tiny store is flipped: what is read is either right or an error that says what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from replicate.errors import CorruptionError, ReplicateError
from replicate.objects.codecs import Encoding, cast, delta, planes
from replicate.objects.frames import FrameRef
from replicate.objects.ids import Kind, blob_id, object_id
from replicate.objects.locator import Locator
from replicate.objects.model import Commit, Mode, TreeEntry, commit_id, encode_commit, encode_tree
from replicate.refs import RefStore
from replicate.repository import Repository
from replicate.transport import LocalTransport, MemoryTransport
from tests.builders import (
    SESSION,
    Frame,
    SmallStore,
    build_pack,
    concat_frame,
    patch_frame,
    zstd_frame,
)
from tests.hostile.readers import Altered, check_outcome, keys_of, read_everything
from tests.projects import SampleProject


def saved_store(folder: Path) -> dict[str, bytes]:
    """Return a store as it is written: a root, a checkpoint on it, and a session's end."""
    store = SmallStore(folder)
    root = store.save({"a": b"1", "sub": {"zeros": bytes(64)}})
    store.save({"a": b"2", "sub": {"zeros": bytes(64)}}, root, metrics=0.5)
    store.refs.publish(root.record.commit_id, 1, SESSION, "e", {"status": "finished", "time": 1, "duration": 1})
    store.index.close()
    return keys_of(store.transport)


def every_encoding(folder: Path) -> dict[str, bytes]:
    """Return a store in which everything is stored in its own way: two packs, an older locator, a packset frame."""
    transport = MemoryTransport()
    chunks = (b"abc", b"de")
    filled = Frame(bytes(64), encoding=Encoding.FILL, payload=b"\0")
    packed = zstd_frame(b"text " * 20)
    whole = concat_frame(*chunks)
    planed, moved, rounded = weight_frames()
    data_pack = build_pack(
        [Frame(chunks[0]), Frame(chunks[1]), filled, packed, planed, moved, rounded], b"data".ljust(16)
    )
    older = Locator((), tuple(data_pack.places), (), 7, 7).encode()
    older_pack = build_pack([zstd_frame(older, Kind.LOCATOR)], b"older".ljust(16), is_meta=True)
    files = {b"whole": whole, b"filled": filled, b"packed": packed}
    files |= {b"planed": planed, b"moved": moved, b"rounded": rounded}
    entries = [TreeEntry(name, Mode.FILE, len(made.content), made.object_id) for name, made in files.items()]
    base, tree = encode_tree(entries[:2]), encode_tree(entries)
    commit = encode_commit(Commit(tree=object_id(Kind.TREE, tree), author="", time_ns=0, nonce=bytes(16)))
    frames = [whole, Frame(base, Kind.TREE), patch_frame(base, tree), zstd_frame(commit, Kind.COMMIT)]
    built = build_pack(frames)
    (place,) = older_pack.entries
    locator = Frame(
        Locator(built.entries, (), (FrameRef(older_pack.pack_id, place.offset, place.length),), 11, 7).encode(),
        Kind.LOCATOR,
    )
    packset = Frame(b"\x92" + b"".join(b"\xc4\x20" + one for one in sorted([data_pack.pack_id, older_pack.pack_id])), 5)
    meta_pack = build_pack([*frames, locator, packset], is_meta=True)
    for pack in (data_pack, older_pack, meta_pack):
        transport.put(pack.key, pack.data)

    def ref(made: Frame) -> list[object]:
        (found,) = [one for one in meta_pack.entries if one.object_id == made.object_id]
        return FrameRef(meta_pack.pack_id, found.offset, found.length).encode()

    refs = RefStore(transport, lambda error: None)
    fields = {"commit": commit, "packset_at": ref(packset), "meta": [meta_pack.pack_id], "locator": ref(locator)}
    refs.publish(commit_id(commit), 0, SESSION, "c", fields, commit_id(commit).hex())
    return keys_of(transport)


def weight_frames() -> tuple[Frame, Frame, Frame]:
    """Return a small tensor as planes, the tensor a step later as a delta on it, and the first one rounded."""
    weights = np.arange(1, 25, dtype=np.float32)
    first, later = weights.tobytes(), (weights.view(np.uint32) + np.arange(24, dtype=np.uint32) % 2).tobytes()
    base, halves = blob_id(first), (weights.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    payloads = planes.encode(first, 4), delta.encode(later, 4, base, first), cast.encode(halves, base, first)
    made = [payload for payload in payloads if payload]
    return (
        Frame(first, encoding=Encoding.PLANES, payload=made[0]),
        Frame(later, encoding=Encoding.DELTA, payload=made[1], depth=1),
        Frame(halves, encoding=Encoding.CAST, payload=made[2], depth=1),
    )


STORES = [saved_store, every_encoding]


@pytest.mark.parametrize("make", STORES)
def test_a_tiny_store_is_read_whole(tmp_path: Path, make: Callable[[Path], dict[str, bytes]]) -> None:
    keys = make(tmp_path)
    found = read_everything(Altered(keys, "ctl/x", b""))
    assert found.damage == []
    assert not any(isinstance(files, ReplicateError) for files in found.files.values())
    assert sum(map(len, keys.values())) < 5_000
    if make is every_encoding:
        planed, moved, rounded = (frame.content for frame in weight_frames())
        weights = {"planed": planed, "moved": moved, "rounded": rounded}
        simple = {"whole": b"abcde", "filled": bytes(64), "packed": b"text " * 20}
        assert list(found.files.values()) == [simple | weights]


@pytest.mark.parametrize("make", STORES)
def test_every_flipped_bit_gives_the_right_bytes_or_an_error(
    tmp_path: Path, make: Callable[[Path], dict[str, bytes]]
) -> None:
    keys = make(tmp_path)
    right = read_everything(Altered(keys, "ctl/x", b""))
    told = 0
    for key, data in keys.items():
        for bit in range(len(data) * 8):
            flipped = bytearray(data)
            flipped[bit // 8] ^= 1 << bit % 8
            told += check_outcome(read_everything(Altered(keys, key, bytes(flipped))), right) > 0
    assert told > sum(map(len, keys.values())) * 8 // 2  # footers and headers of packs are not read when restoring


def test_every_flipped_bit_of_the_marker_is_told(tmp_path: Path) -> None:
    project = SampleProject(tmp_path / "project")
    project.write("a", b"1")
    project.save(project.begin())
    keys = keys_of(LocalTransport(project.store))
    marker = keys["ctl/v1"]
    for bit in range(len(marker) * 8):
        flipped = bytearray(marker)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptionError, match="ctl/v1 is damaged: not the marker of a store"):
            Repository(project.config, project.host, project.events, Altered(keys, "ctl/v1", bytes(flipped)))


@pytest.mark.parametrize("make", STORES)
def test_every_truncated_file_gives_the_right_bytes_or_an_error(
    tmp_path: Path, make: Callable[[Path], dict[str, bytes]]
) -> None:
    keys = make(tmp_path)
    right = read_everything(Altered(keys, "ctl/x", b""))
    for key, data in keys.items():
        for size in range(len(data)):
            check_outcome(read_everything(Altered(keys, key, data[:size])), right)


@pytest.mark.parametrize("make", STORES)
def test_files_that_lie_under_each_others_names_are_never_taken_for_each_other(
    tmp_path: Path, make: Callable[[Path], dict[str, bytes]]
) -> None:
    keys = make(tmp_path)
    right = read_everything(Altered(keys, "ctl/x", b""))
    for key in keys:
        for other in keys.values():
            if other != keys[key]:
                assert check_outcome(read_everything(Altered(keys, key, other)), right) > 0


@pytest.mark.parametrize("make", STORES)
def test_every_missing_file_is_told_or_left_out_of_the_listing(
    tmp_path: Path, make: Callable[[Path], dict[str, bytes]]
) -> None:
    keys = make(tmp_path)
    right = read_everything(Altered(keys, "ctl/x", b""))
    for key in keys:
        transport = Altered(keys, "ctl/x", b"")
        transport.delete([key])
        found = read_everything(transport)
        if key.startswith("packs/"):
            assert check_outcome(found, right) > 0
        else:
            assert found.files == {name: files for name, files in right.files.items() if name != key}


def test_frames_of_the_tiny_store_cover_every_encoding(tmp_path: Path) -> None:
    keys = every_encoding(tmp_path)
    frames = b"".join(keys.values())
    for encoding in Encoding:
        assert any(frames[at : at + 4] == b"OBJ1" and frames[at + 5] == encoding for at in range(len(frames) - 60)), (
            encoding
        )

"""Blobs that are stored as planes, delta and cast, read through a store. What must be refused: the vectors, too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from replicate.errors import CorruptionError, ObjectNotFoundError
from replicate.objects import store as store_module
from replicate.objects.codecs import Encoding, cast, delta, planes
from replicate.objects.ids import Buffer, Kind, blob_id
from replicate.objects.pack import verify_pack
from replicate.transport import MemoryTransport
from tests.builders import Frame, SmallStore, build_pack, concat_frame, patch_frame, store_of
from tests.objects.codecs.series import bfloat16, stepped, weights

FIRST = weights(10_000)
SERIES = [FIRST.tobytes()]
for number in range(4):
    SERIES.append(stepped(np.frombuffer(SERIES[-1], np.float32), 1e-4, number).tobytes())
EXPORT = bfloat16(np.frombuffer(SERIES[-1], np.float32)).tobytes()


def planes_frame(content: bytes) -> Frame:
    """Return a frame in encoding planes."""
    return Frame(content, encoding=Encoding.PLANES, payload=planes.encode(content, 4))


def delta_frame(base: bytes, content: bytes, depth: int, *, ordered: bool = False) -> Frame:
    """Return a frame in encoding delta."""
    payload = delta.encode(content, 4, blob_id(base), base, ordered=ordered)
    return Frame(content, encoding=Encoding.DELTA, payload=payload, depth=depth)


def series_frames() -> list[Frame]:
    """Return planes, deltas on each other, and a cast of the last."""
    frames = [planes_frame(SERIES[0])]
    for depth in range(1, len(SERIES)):
        frames.append(delta_frame(SERIES[depth - 1], SERIES[depth], depth, ordered=depth % 2 == 0))
    payload = cast.encode(EXPORT, blob_id(SERIES[-1]), SERIES[-1])
    return [*frames, Frame(EXPORT, encoding=Encoding.CAST, payload=payload, depth=len(frames))]


def test_a_series_comes_back() -> None:
    frames = series_frames()
    objects = store_of(build_pack(frames))
    for frame in frames:
        assert len(frame.stored) < len(frame.content)
        assert objects.read(frame.object_id) == frame.content
        assert b"".join(objects.iter_blob(frame.object_id)) == frame.content
    found = dict(objects.read_many([frame.object_id for frame in frames]))
    assert found == {frame.object_id: frame.content for frame in frames}


@pytest.mark.parametrize("workers", [1, 3])
def test_chunks_that_lie_on_each_other_are_copied(workers: int) -> None:
    frames = series_frames()
    whole = concat_frame(*(frame.content for frame in reversed(frames)))
    out = bytearray(len(whole.content))

    def write(offset: int, data: Buffer) -> None:
        out[offset : offset + len(data)] = data

    objects = store_of(build_pack([*frames, whole]), workers=workers)
    objects.copy_blob(whole.object_id, write, lambda length: None, claimed_bytes=len(out))
    assert out == whole.content


def test_payloads_that_would_take_much_memory_are_read_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "_MAX_WAITING_BYTES", 1)
    assert store_of(build_pack(series_frames())).read(blob_id(EXPORT)) == EXPORT


def test_deltas_and_patches_may_lie_on_each_other() -> None:
    frames = [planes_frame(SERIES[0]), patch_frame(SERIES[0], SERIES[1], Kind.BLOB, 1)]
    frames.append(delta_frame(SERIES[1], SERIES[2], 2))
    assert store_of(build_pack(frames)).read(blob_id(SERIES[2])) == SERIES[2]


def test_a_corrupt_base_is_told_with_the_object_and_both_packs() -> None:
    bad = Frame(SERIES[1], claimed=blob_id(SERIES[0]))
    first, second = build_pack([bad]), build_pack([delta_frame(SERIES[0], SERIES[1], 1)], b"2" * 16)
    with pytest.raises(CorruptionError) as caught:
        store_of(first, second).read(blob_id(SERIES[1]))
    assert caught.value.message == (
        f"blob {blob_id(SERIES[1]).hex()} in pack {second.pack_id.hex()} cannot be read, for it builds on this: "
        f"blob {blob_id(SERIES[0]).hex()} in pack {first.pack_id.hex()} is damaged: its bytes do not match its id"
    )


def test_a_corrupt_delta_is_told_with_its_base() -> None:
    made = delta_frame(SERIES[0], SERIES[1], 1)
    spoilt = Frame(SERIES[1], encoding=Encoding.DELTA, payload=made.stored[:-1], depth=1)
    with pytest.raises(CorruptionError) as caught:
        store_of(build_pack([planes_frame(SERIES[0]), spoilt])).read(blob_id(SERIES[1]))
    for named in (SERIES[1], SERIES[0]):
        assert blob_id(named).hex() in caught.value.message


def test_a_base_that_is_not_there_is_told_with_the_object() -> None:
    with pytest.raises(ObjectNotFoundError) as caught:
        store_of(build_pack([delta_frame(SERIES[0], SERIES[1], 1)])).read(blob_id(SERIES[1]))
    assert caught.value.object_id == blob_id(SERIES[0]).hex()
    assert blob_id(SERIES[1]).hex() in caught.value.message


@pytest.mark.parametrize("encoding", [Encoding.PLANES, Encoding.DELTA, Encoding.CAST])
def test_only_blobs_are_stored_so(encoding: Encoding) -> None:
    made = Frame(b"", Kind.TREE, encoding, bytes(40), int(encoding != Encoding.PLANES))
    with pytest.raises(CorruptionError, match="only blobs are stored as weights are"):
        store_of(build_pack([made])).read(made.object_id, Kind.TREE)


def test_planes_are_verified_with_their_pack() -> None:
    sound = build_pack([planes_frame(SERIES[0])])
    bad = build_pack([Frame(SERIES[1], encoding=Encoding.PLANES, payload=planes_frame(SERIES[0]).stored)])
    transport = MemoryTransport()
    for built in (sound, bad):
        transport.put(built.key, built.data)
    verify_pack(transport, sound.pack_id, len(sound.data))
    with pytest.raises(CorruptionError, match="its bytes do not match its id"):
        verify_pack(transport, bad.pack_id, len(bad.data))


def test_a_delta_of_another_writer_is_relied_on_with_its_base_alone(tmp_path: Path) -> None:
    base, made = planes_frame(SERIES[0]), delta_frame(SERIES[0], SERIES[1], 1)
    lone = delta_frame(SERIES[3], SERIES[2], 1)
    store = SmallStore(tmp_path)
    built = build_pack([base, made, lone])
    store.transport.put(built.key, built.data)
    store.index.refresh()
    saved = store.save({"a": SERIES[1], "b": SERIES[2]})
    assert store.restore(saved) == {"a": SERIES[1], "b": SERIES[2]}
    assert store.locations(saved).find(base.object_id)
    depths = {place.entry.object_id: place.entry.depth for place in store.locations(saved)}
    assert (depths[made.object_id], depths[lone.object_id]) == (1, 0)
    store.index.close()

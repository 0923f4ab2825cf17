"""What hypothesis makes: values, trees, commits, frames, locators and records that are allowed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

from replicate.objects.codecs import Encoding
from replicate.objects.frames import MAX_PACK_BYTES, FrameRef
from replicate.objects.ids import Kind, ObjectID
from replicate.objects.locator import Locator
from replicate.objects.model import MAX_LINK_BYTES, Commit, Mode, PathList, TreeEntry, check_name
from replicate.objects.pack import FRAME, HEADER, Entry, Place

settings.register_profile("moderate", max_examples=60, deadline=None)
settings.load_profile("moderate")

digests = st.binary(min_size=32, max_size=32)
ids = digests.map(ObjectID)
int64s = st.integers(-(1 << 63), (1 << 63) - 1)
sizes = st.integers(0, 1 << 50)
texts = st.text(max_size=12)

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(1 << 63), (1 << 64) - 1), st.floats(), texts, st.sampled_from([-0.0, 1.0])
)


def containers(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return lists and maps of leaves, in each other."""
    return st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=12
    )


values = containers(scalars)
msgpack_values = containers(scalars | st.binary(max_size=12))
value_maps = st.dictionaries(texts, values, max_size=5)

names = st.one_of(
    st.binary(min_size=1, max_size=8),
    st.text(min_size=1, max_size=8).map(str.encode),
    st.sampled_from([b"a", b"b", b"a.b", b"\xff", b"...", b" ", b"n" * 255]),
).filter(lambda name: check_name(name) is None)


@st.composite
def tree_entries(draw: st.DrawFn) -> TreeEntry:
    """Return an entry of a tree."""
    mode = draw(st.sampled_from(Mode))
    size = draw(st.integers(1, MAX_LINK_BYTES)) if mode is Mode.SYMLINK else draw(sizes)
    return TreeEntry(draw(names), mode, size, draw(ids))


trees = st.lists(tree_entries(), max_size=12, unique_by=lambda entry: entry.name)

path_lists = st.lists(st.binary(min_size=1, max_size=12), min_size=1, max_size=5).map(PathList.of)
goals = st.sampled_from(["minimize", "maximize"])
unknown_keys = st.dictionaries(texts.map("x-".__add__), msgpack_values, max_size=3)


@st.composite
def commits(draw: st.DrawFn) -> Commit:
    """Return a root or a checkpoint."""
    common: Mapping[str, Any] = {
        "tree": draw(ids),
        "author": draw(texts),
        "time_ns": draw(int64s),
        "primary_metric": draw(st.none() | st.tuples(texts, goals)),
        "unstable": draw(st.none() | path_lists),
        "skipped": draw(st.none() | path_lists),
        "extra": draw(unknown_keys),
    }
    if draw(st.booleans()):
        return Commit(
            **common,
            parents=tuple(draw(st.lists(ids, max_size=2))),
            nonce=draw(st.binary(min_size=16, max_size=16)),
            params=draw(value_maps),
            command=draw(texts),
            name=draw(st.none() | texts),
            tags=tuple(sorted(draw(st.sets(texts, max_size=3)))),
        )
    return Commit(
        **common,
        parents=tuple(draw(st.lists(ids, min_size=1, max_size=2))),
        experiment=draw(ids),
        seq=draw(st.integers(1, (1 << 32) - 1)),
        step=draw(st.none() | int64s),
        metrics=draw(value_maps),
    )


contents = st.one_of(
    st.binary(max_size=200),
    st.builds(lambda item, count: item * count, st.binary(min_size=1, max_size=8), st.integers(0, 200)),
)

entries = st.builds(
    Entry,
    ids,
    st.sampled_from([int(kind) for kind in Kind]),
    st.sampled_from([int(encoding) for encoding in Encoding]),
    st.integers(0, 255),
    st.integers(HEADER.size, 1 << 20),
    st.integers(FRAME.size, 1 << 20),
    sizes,
)
frame_refs = st.builds(FrameRef, ids, st.integers(0, MAX_PACK_BYTES), st.integers(0, MAX_PACK_BYTES))


def _sections(packs: list[ObjectID]) -> st.SearchStrategy[list[Place]]:
    """Return places in some packs, each pack of one size, no object twice in one."""
    places = st.builds(Place, st.sampled_from(packs), st.just(MAX_PACK_BYTES), entries)
    return st.lists(places, max_size=12, unique_by=lambda place: (place.pack, place.entry.object_id))


@st.composite
def locators(draw: st.DrawFn) -> Locator:
    """Return a locator of objects in its own pack and in others."""
    packs = draw(st.lists(ids, min_size=1, max_size=4, unique=True))
    return Locator(
        tuple(draw(st.lists(entries, max_size=8, unique_by=lambda entry: entry.object_id))),
        tuple(draw(_sections(packs))),
        tuple(draw(st.lists(frame_refs, max_size=16))),
        draw(st.integers(0, 1 << 40)),
        draw(st.integers(0, 1 << 40)),
        draw(st.integers(0, 1 << 20)),
    )


sessions = st.binary(min_size=8, max_size=8).map(bytes.hex)

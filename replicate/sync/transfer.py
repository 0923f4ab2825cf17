"""One pack from one store to another, and which packs a store has. SPEC §12."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from replicate.errors import CorruptionError, KeyNotFoundError, ReplicateError
from replicate.objects.ids import ObjectID, pack_id
from replicate.objects.pack import pack_key
from replicate.threads import side_by_side
from replicate.transport import KeyInfo, Transport

_PAGE = 1_000
_DAMAGED_HINT = "`replicate fsck` tells what it affects; the checkpoints that need it are not copied"


def place_of(transport: Transport) -> str:
    """Return what people call the place of a store: its URL, or the path of its folder."""
    return str(getattr(transport, "url", None) or getattr(transport, "root", None) or "the store in memory")


def copy_pack(source: Transport, target: Transport, pack: ObjectID) -> int:
    """Copy one pack, if its bytes are those that its name says; return their number.

    Raises:
        CorruptionError: They are not, twice, or it is not there; nothing was put.
    """
    data = _read_pack(source, pack)
    if data is None:  # an answer may have been cut short
        data = _read_pack(source, pack)
    if data is None:
        why = f"pack {pack.hex()} is damaged in {place_of(source)}: its bytes do not match its name"
        raise CorruptionError(why, where=pack_key(pack), hint=_DAMAGED_HINT)
    target.put(pack_key(pack), data)
    return len(data)


def _read_pack(source: Transport, pack: ObjectID) -> bytes | None:
    """Return a pack's bytes, None when they are others than its name says."""
    key = pack_key(pack)
    try:
        data = source.get(key)
    except KeyNotFoundError as exc:
        why = f"pack {pack.hex()} is not in {place_of(source)}"
        raise CorruptionError(why, where=key, hint=_DAMAGED_HINT) from exc
    return data if pack_id(data) == pack else None


def list_keys(transport: Transport, top: str, prefixes: Collection[str] | None, jobs: int) -> Iterator[KeyInfo]:
    """Yield the keys below a top-level name that begin with one of some prefixes of one length; None: all of them.

    Where storage lists 1,000 keys a request, this makes no more requests than twice what is best, not knowing how many
    keys there are: it lists everything, unless that takes longer than to ask for each prefix.
    """
    if prefixes is None:
        yield from transport.list(top)
        return
    if not prefixes:
        return
    length = len(next(iter(prefixes)))
    found: list[KeyInfo] = []
    for count, info in enumerate(transport.list(top)):
        if count >= _PAGE * len(prefixes):
            break
        if info.key[:length] in prefixes:
            found.append(info)
    else:
        yield from found
        return
    yield from _list_each(transport, prefixes, jobs)


def _list_each(transport: Transport, prefixes: Collection[str], jobs: int) -> Iterator[KeyInfo]:
    for _, infos in side_by_side(((prefix, 0) for prefix in prefixes), lambda one: list(transport.list(one)), jobs):
        if isinstance(infos, ReplicateError):
            raise infos
        yield from infos


def pack_sizes(transport: Transport, packs: Collection[ObjectID], jobs: int) -> dict[ObjectID, int]:
    """Return the bytes of those of some packs that a store holds."""
    return _sizes(list_keys(transport, "packs/", {pack_key(pack) for pack in packs}, jobs))


def look_for(transport: Transport, packs: Collection[ObjectID], jobs: int) -> dict[ObjectID, int]:
    """Return as `pack_sizes`, by a request for each pack: few are wanted of many."""
    return _sizes(_list_each(transport, [pack_key(pack) for pack in packs], jobs))


def _sizes(infos: Iterable[KeyInfo]) -> dict[ObjectID, int]:
    return {ObjectID.parse(info.key.rpartition("/")[2]): info.size or 0 for info in infos}

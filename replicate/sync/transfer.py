"""Many things at a time, but only so many bytes. SPEC §12."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

from replicate.errors import CorruptionError, KeyNotFoundError, ReplicateError
from replicate.objects.ids import ObjectID, pack_id
from replicate.objects.pack import pack_key
from replicate.transport import KeyInfo, Transport

DEFAULT_JOBS = 8
MAX_HELD_BYTES = 192 << 20
_PAGE = 1_000
_DAMAGED_HINT = "`replicate fsck` tells what it affects; the checkpoints that need it are not copied"

T = TypeVar("T")
R = TypeVar("R")


def side_by_side(
    tasks: Iterable[tuple[T, int]],
    act: Callable[[T], R],
    jobs: int,
    *,
    is_over: Callable[[], bool] = lambda: False,
    most_bytes: int = MAX_HELD_BYTES,
) -> Iterator[tuple[T, R | ReplicateError]]:
    """Do tasks in threads and yield what became of each, in the order in which they end.

    Args:
        tasks: Each with the bytes that it holds in memory while it is done.
        act: Does one; a `ReplicateError` that it raises is yielded, anything else ends it all.
        jobs: How many at a time.
        is_over: Once it is true nothing is begun any more; what was begun is yielded.
        most_bytes: How much they may hold together; a task that holds more is done alone.
    """
    waiting = deque(tasks)
    running: dict[Future[R], tuple[T, int]] = {}
    held = 0
    with ThreadPoolExecutor(jobs, thread_name_prefix="replicate-sync") as pool:
        try:
            while waiting or running:
                while waiting and len(running) < jobs and (not running or held + waiting[0][1] <= most_bytes):
                    if is_over():
                        waiting.clear()
                        break
                    task, size = waiting.popleft()
                    running[pool.submit(act, task)] = (task, size)
                    held += size
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    task, size = running.pop(future)
                    held -= size
                    outcome: R | ReplicateError
                    try:
                        outcome = future.result()
                    except ReplicateError as exc:
                        outcome = exc
                    yield task, outcome
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


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

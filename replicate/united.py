"""A project's store and its repository elsewhere, read as one. What is written goes to the project's store. Floor 6."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from replicate.config import Project
from replicate.errors import (
    InvalidInputError,
    ReplicateError,
    StorageError,
    StorageMissingError,
    StorageUnreachableError,
)
from replicate.history import History
from replicate.host import Host
from replicate.liveness import Liveness, beats_in
from replicate.objects.ids import ObjectID
from replicate.overview import Overview
from replicate.refs.cache import ShardCache
from replicate.reporting import Reporter
from replicate.repository import Repository, open_elsewhere
from replicate.text import format_age
from replicate.transport import LocalTransport, Transport, is_url
from replicate.transport.union import UnionTransport

if TYPE_CHECKING:
    from replicate.objects.index import ObjectIndex
    from replicate.objects.pack import Place
    from replicate.objects.store import ObjectStore

_ATTEMPTS, _ANSWER_SECONDS, _FURTHER_SECONDS = 2, 4.5, 30.0
"""How often and how long a repository is waited for: while it has not answered, a person waits for what lies here."""
_BRIEF_SECONDS, _SILENCE_NS = 2.0, 60 * 10**9
"""How long one is asked that was waited for in vain a moment ago, and how long that is a moment."""


def open_united(project: Project, host: Host, reporter: Reporter, *, is_offline: bool = False) -> Repository:
    """Open a project's store to be read, together with the repository that its checkpoints are copied to.

    Where that is the store itself, it is opened alone. Else the repository is asked when something is first read; when
    it cannot be reached, the reporter hears of it, and there is the project's store alone.

    Args:
        project: Where it lies, and its repository.
        host: This machine.
        reporter: Hears of damaged records, and of a repository that cannot be reached.
        is_offline: Do not try to reach it.

    Raises:
        UnsupportedFormatError, CorruptionError: Of the project's own store.
    """
    if not project.repository:
        return Repository(project, host, reporter)
    return UnitedRepository(project, host, reporter, is_offline=is_offline)


class UnitedRepository(Repository):
    """See `open_united`.

    Args:
        project: Where it lies, and its repository.
        host: This machine.
        reporter: Hears of damaged records, and of a repository that cannot be reached.
        is_offline: Do not try to reach it.
        elsewhere: The repository, if it is open already.
    """

    def __init__(
        self,
        project: Project,
        host: Host,
        reporter: Reporter,
        *,
        is_offline: bool = False,
        elsewhere: Transport | None = None,
    ) -> None:
        self._is_offline = is_offline
        self._elsewhere = elsewhere
        self._far_caches = ""
        self._lists = False
        self._own = Repository(project, host, reporter)
        self.union = UnionTransport(self._own.transport, self._connect, self._tell_loss)
        super().__init__(project, host, reporter, self.union)

    @property
    def own(self) -> Repository:
        """See `Repository.own`."""
        return self._own

    def _connect(self) -> Transport:
        place = self.project.repository
        if self._is_offline:
            raise StorageUnreachableError(
                f"{place} is not asked, as REPLICATE_MODE is offline", operation="list", hint="unset REPLICATE_MODE"
            )
        silent_ns = None if self._elsewhere else self._silent_ns()
        transport = self._elsewhere or self._open(place, is_brief=silent_ns is not None)
        try:
            found = open_elsewhere(place, transport, self.cache_path("elsewhere"), lists=self._lists)
        except StorageUnreachableError as exc:
            if silent_ns is not None:
                told = f"{exc.message}, asked once as it did not answer {format_age(silent_ns / 1e9)}"
                raise StorageUnreachableError(told, key=exc.key, operation=exc.operation, hint=exc.hint) from exc
            if self._elsewhere is None:
                self._note_silence()
            raise
        self._far_caches = found.caches
        return found.transport

    def _open(self, place: str, *, is_brief: bool) -> Transport:
        if not is_url(place):
            return LocalTransport(place)
        from replicate.transport.remote import Patience, open_transport  # what needs fsspec is loaded for a URL only

        at_first = Patience(attempts=_ATTEMPTS, longest_wait=0.5, timeout=_ANSWER_SECONDS)
        if is_brief:
            at_first = Patience(attempts=1, timeout=_BRIEF_SECONDS)
        patience = Patience(timeout=_FURTHER_SECONDS, at_first=at_first)
        return open_transport(place, self.project.storage, patience=patience, host=self.host)

    def _silent_ns(self) -> int | None:
        """Return how long ago the repository was waited for in vain, if that was a moment ago, on this machine."""
        try:
            with open(self.cache_path("silent"), encoding="utf-8") as file:
                noted, _, place = file.read().partition(" ")
            age_ns = self.host.now_ns() - int(noted)
        except (OSError, ValueError):
            return None
        return age_ns if place == self.project.repository and 0 <= age_ns < _SILENCE_NS else None

    def _note_silence(self) -> None:
        """Keep that the repository was waited for in vain, so that not every command does."""
        if os.path.isdir(self.project.store):
            with contextlib.suppress(OSError):
                self._write_local(self.cache_path("silent"), f"{self.host.now_ns()} {self.project.repository}")

    def _tell_loss(self, error: ReplicateError) -> None:
        if self._is_offline:
            self.reporter.notice(f"offline: what lies only in {self.project.repository} is not shown")
            return
        hint = "`replicate push --create` makes one" if isinstance(error, StorageMissingError) else error.hint
        told = f"{error.message}; only what is on this machine is shown"
        self.reporter.warn(f"{told}\nhint: {hint}" if hint else told)

    # -- parts ---------------------------------------------------------------------------------------------------

    def history(self) -> History:
        """See `Repository.history`. It tells of every commit whether the repository has it."""
        self._lists = True
        return History(Overview(self.refs, self._open_cache, self.union))

    def _open_cache(self) -> ShardCache:
        is_alone = self.union.far is None
        return ShardCache(self.cache_path("refs.db") if is_alone else os.path.join(self._far_caches, "united.db"))

    @functools.cached_property
    def index(self) -> ObjectIndex:
        """Of the packs of both stores: nothing may be saved by it. Reads the ends of all packs that it never saw."""
        from replicate.objects.index import ObjectIndex

        if self.union.far is None:
            return self.own.index
        index = ObjectIndex(os.path.join(self._far_caches, "objects.db"), self.union, self.host.boot_id)
        index.refresh()
        return index

    def find_objects(self, prefix: str, limit: int) -> Sequence[tuple[ObjectID, int]]:
        """See `Repository.find_objects`. The repository is asked for what is not here."""
        return self.own.find_objects(prefix, limit) or self.index.find_prefix(prefix, limit)

    def all_objects(self) -> ObjectStore:
        """See `Repository.all_objects`."""
        from replicate.objects.store import ObjectStore

        self.own.index.refresh()
        return ObjectStore(self.union, _NearFirst(self), evicted_to=self.evicted_to)

    @property
    def place(self) -> str:
        """The repository, as it is called in what this machine keeps of it."""
        place = self.project.repository
        if is_url(place):
            from replicate.transport.remote.location import parse_location

            with contextlib.suppress(InvalidInputError):  # told by who connects
                place = parse_location(place).url
        return place

    def evicted_to(self, pack: ObjectID) -> str:
        """See `Repository.evicted_to`. Of what lies in the repository, that tells itself why it cannot be read."""
        place = super().evicted_to(pack)
        return "" if place == self.place else place

    @functools.cached_property
    def liveness(self) -> Liveness:
        """See `Repository.liveness`. Sessions on other machines are told by their heartbeats in the repository."""
        return Liveness(self.union.near, self.host, self.is_session_running, self._beats_elsewhere)

    def _beats_elsewhere(self) -> Mapping[str, int]:
        far = self.union.far
        try:
            return beats_in(far, self.host) if far else {}
        except StorageError as exc:
            self.union.lose(exc)
            return {}


class _NearFirst:
    """Where objects lie: those of this machine's store first, as that costs no request."""

    def __init__(self, repository: UnitedRepository) -> None:
        self._repository = repository

    def find(self, object_id: ObjectID) -> Sequence[Place]:
        """See `Locations.find`."""
        return self._repository.own.index.find(object_id) or self._repository.index.find(object_id)

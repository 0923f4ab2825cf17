"""A project's store and its repository elsewhere, read as one. What is written goes to the project's store. Floor 6."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from replicate.config import Project
from replicate.errors import ReplicateError, StorageError, StorageMissingError, StorageUnreachableError
from replicate.history import History
from replicate.host import Host
from replicate.liveness import Liveness, beats_in
from replicate.objects.ids import ObjectID
from replicate.overview import Overview
from replicate.refs.cache import ShardCache
from replicate.reporting import Reporter
from replicate.repository import Repository, open_elsewhere
from replicate.transport import LocalTransport, Transport, is_url
from replicate.transport.union import UnionTransport

if TYPE_CHECKING:
    from replicate.objects.index import ObjectIndex
    from replicate.objects.pack import Place
    from replicate.objects.store import ObjectStore

_ATTEMPTS, _ANSWER_SECONDS = 2, 4.5
"""How long a repository is waited for: while it has not answered, a person waits for what lies on this machine."""


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
        transport = self._elsewhere or self._open(place)
        found = open_elsewhere(place, transport, self.cache_path("elsewhere"))
        self._far_caches = found.caches
        if is_url(place) and self._elsewhere is None:
            from replicate.transport.remote import Patience, RemoteTransport

            if isinstance(transport, RemoteTransport):  # it answers: what is asked for from now on is needed
                transport.be_patient(Patience())
        return found.transport

    def _open(self, place: str) -> Transport:
        if not is_url(place):
            return LocalTransport(place)
        from replicate.transport.remote import Patience, open_transport  # what needs fsspec is loaded for a URL only

        patience = Patience(attempts=_ATTEMPTS, longest_wait=0.5, timeout=_ANSWER_SECONDS)
        return open_transport(place, self.project.storage, patience=patience, host=self.host)

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
        return ObjectStore(self.union, _NearFirst(self))

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

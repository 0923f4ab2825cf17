"""The disk is full or fails at every write: an error that says so, a store that is intact, a save that goes on."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
from pathlib import Path

import pytest

from replicate.errors import StorageError, StorageFullError
from replicate.objects.ids import ObjectID
from replicate.refs import CommitRecord
from replicate.session import Session
from replicate.transport import LocalTransport
from tests.faults.power import FaultDisk
from tests.faults.scenario import HASTY, MIB, VERSIONS, Model, abandon, check_models, write_version
from tests.projects import CAPTURE, SampleProject, check_store, store_bytes


class Failing:
    """Makes the calls of one kind fail from the nth on, until it is mended."""

    def __init__(self, call: str, number: int, code: int) -> None:
        self.failed: list[str] = []
        self._call = call
        self._left = number
        self._code = code
        self._is_mended = False

    def __call__(self, call: str, path: str) -> None:
        if call != self._call or self._is_mended:
            return
        self._left -= 1
        if self._left > 0:
            return
        self.failed.append(path)
        if call == "write":
            Path(path).write_bytes(b"half")
        raise OSError(self._code, os.strerror(self._code))

    def mend(self) -> None:
        self._is_mended = True


class Attempt:
    """Saves every version once more when the first try fails; the session goes on."""

    def __init__(self, folder: Path, failing: Failing) -> None:
        disk = FaultDisk(before=failing)
        transport = LocalTransport(folder / "project" / ".replicate", disk=disk)
        self.project = SampleProject(folder / "project", durability="safe", transport=transport, host=HASTY)
        self.failing = failing
        self.error: StorageError | None = None
        self.published: list[CommitRecord] = []  # by the call that raised
        self.saved: dict[ObjectID, Model] = {}
        session: Session | None = None
        for version in range(VERSIONS):
            model = write_version(self.project, version, is_large=False)
            try:
                session = self._save(session)
            except StorageError as exc:
                assert self.error is None
                self.error = exc
                self.published = [one for one in self.project.history().records() if one.commit_id not in self.saved]
                check_models(self.project, self.saved)
                failing.mend()
                session = self._save(session)
            self.saved[session.head.commit_id] = model
        assert session is not None
        abandon(session)

    def _save(self, session: Session | None) -> Session:
        if session is not None:
            self.project.save(session)
            return session
        repository = self.project.open()
        repository.create()
        session = Session(repository, self.project.events, CAPTURE)
        try:
            session.begin({}, None, (), None, None)
        except BaseException:
            abandon(session)
            raise
        return session


def attempts(folder: Path, call: str, code: int) -> list[StorageError]:
    """Let every call of a kind fail, one after the other; check what is left; return the errors.

    The call that begins an experiment publishes its start before the session's: when the latter fails, the former is
    there.
    """
    errors = []
    for number in itertools.count(1):
        attempt = Attempt(folder / f"{number}", Failing(call, number, code))
        check_models(attempt.project, attempt.saved)
        heads = attempt.project.history().experiments[-1].heads
        assert attempt.saved.keys() >= {heads[-1].commit_id}
        assert os.listdir(attempt.project.store / "local" / "tmp") == []
        check_store(attempt.project.store)
        if attempt.error is None:
            break
        if call == "write":
            at_session_start = "~s~" in attempt.error.key
            assert [record.commit.is_root for record in attempt.published] == [True] * at_session_start
        errors.append(attempt.error)
        shutil.rmtree(folder / f"{number}")
    return errors


def test_a_disk_that_is_full_at_any_write_is_told_and_the_next_save_works(tmp_path: Path) -> None:
    errors = attempts(tmp_path, "write", errno.ENOSPC)
    assert len(errors) == 11
    assert {type(error) for error in errors} == {StorageFullError}


def test_a_full_disk_is_told_with_the_place_and_what_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=4_096)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    project = Attempt(tmp_path, Failing("write", 2, errno.ENOSPC))
    assert str(project.error) == (
        f"no space left to write {project.project.store}/ctl/v1: 26 bytes needed, 4,096 free; the store is intact "
        f"(hint: free some space on the disk of {project.project.store}, and repeat)"
    )


def test_bytes_that_cannot_be_synced_are_not_published(tmp_path: Path) -> None:
    errors = attempts(tmp_path, "write", errno.EIO)
    assert len(errors) == 11
    assert {type(error) for error in errors} == {StorageError}
    assert all(str(error).endswith(": Input/output error") for error in errors)


def test_a_directory_that_cannot_be_synced_fails_the_save_and_the_next_one_works(tmp_path: Path) -> None:
    """The last name may be there all the same: what is listed is whole."""
    errors = attempts(tmp_path, "sync directory", errno.EIO)
    assert len(errors) > 11
    assert {type(error) for error in errors} == {StorageError}


def test_what_a_failed_save_stored_is_not_stored_again_by_the_next(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path, Failing("write", 11, errno.ENOSPC))
    (failed,) = [key for key in [attempt.error.key if attempt.error else ""] if "~c~" in key]
    assert failed.startswith("refs/")
    assert 2 * MIB < store_bytes(attempt.project.store) < 3 * MIB  # three times the noise would be more

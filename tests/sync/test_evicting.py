"""Packs that lie in the repository are removed here, oldest first; nothing is lost, wherever it stops. SPEC §12."""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from replicate.errors import ConflictError, CorruptionError, StorageError, StorageReplacedError, UnsupportedFormatError
from replicate.evicted import EvictedPack, read_evicted, write_evicted
from replicate.host import Host
from replicate.objects.ids import ObjectID
from replicate.objects.pack import pack_key
from replicate.session import Session
from replicate.sync import create_store
from replicate.sync.evicting import Evicted, cache_limit, evict, evict_to_limit
from replicate.transport import LocalTransport, MemoryTransport, Transport
from replicate.transport.local import Disk
from tests.builders import noise, some_id
from tests.faults.fault_transport import FaultTransport, Mode, Stopped
from tests.projects import SampleProject, check_store, read_folder
from tests.sync.stores import (
    MIB,
    Models,
    Remote,
    check_restores,
    check_transport,
    contents,
    local,
    new_remote,
    pull_from,
    push_to,
    sample,
    view_of,
)

PLACE = "memory://remote"


def evict_from(project: SampleProject, remote: Transport, limit: int = 0) -> Evicted:
    return evict(project.open(), remote, limit, reporter=project.events)


def packs_in(project: SampleProject) -> set[ObjectID]:
    return {ObjectID.parse(info.key.rpartition("/")[2]) for info in local(project).list("packs/")}


def data_packs(project: SampleProject) -> list[ObjectID]:
    """Return the packs of 1 MiB and more, the oldest first."""
    infos = sorted(local(project).list("packs/"), key=lambda info: info.time_ns or 0)
    return [ObjectID.parse(info.key.rpartition("/")[2]) for info in infos if (info.size or 0) >= MIB]


def size_of_packs(project: SampleProject) -> int:
    return sum(info.size or 0 for info in local(project).list("packs/"))


def forget_head(project: SampleProject) -> None:
    shutil.rmtree(project.store / "local" / "cache")


def forget(project: SampleProject) -> None:
    """Have the next experiment begin with nothing that it builds on, as on another machine."""
    forget_head(project)
    (project.root / "weights.bin").unlink()


class Pushed:
    """A project with two experiments that ended, of checkpoints of 2 MiB each, all pushed; the second needs no packs
    of the first."""

    def __init__(self, folder: Path, inner: Transport | None = None) -> None:
        self.models = Models()
        self.project = SampleProject(folder / "project")
        sample(self.project.root, self.models, 4, name="one", size=2 * MIB)
        forget(self.project)
        self.last = sample(self.project.root, self.models, 1, name="two", size=2 * MIB)
        self.remote = new_remote(inner)
        push_to(self.project, self.remote)
        self.remote.counted()
        self.packs = data_packs(self.project)


@pytest.fixture
def pushed(tmp_path: Path) -> Pushed:
    found = Pushed(tmp_path)
    assert len(found.packs) == 5
    return found


def test_the_oldest_data_packs_are_removed_until_the_rest_fits(pushed: Pushed, tmp_path: Path) -> None:
    project = pushed.project
    size = size_of_packs(project)
    whole = contents(local(project))
    done = evict_from(project, pushed.remote, size - 1)
    assert (done.packs, done.place) == (1, PLACE)
    assert data_packs(project) == pushed.packs[1:]
    done = evict_from(project, pushed.remote, 5 * MIB)
    assert done.packs == 2
    assert 4 * MIB < done.size_bytes < 4 * MIB + 2000
    assert data_packs(project) == pushed.packs[3:]
    assert evict_from(project, pushed.remote, 5 * MIB) == Evicted()
    report = check_store(project.store)
    (note,) = [note for note in report.notes if note.kind == "evicted-packs"]
    assert (note.count, note.text) == (3, f"packs lie only in {PLACE}, and were not looked into")
    assert {one.pack for one in read_evicted(str(project.store))} == set(pushed.packs[:3])
    check_transport(pushed.remote)
    check_restores(view_of(tmp_path / "third", pushed.remote), pushed.models, pushed.models.of)
    assert pull_from(project, pushed.remote).packs == 3
    assert contents(local(project)) == whole
    assert read_evicted(str(project.store)) == []
    check_restores(project, pushed.models, pushed.models.of)


def test_what_fits_asks_nothing(pushed: Pushed) -> None:
    assert evict_from(pushed.project, pushed.remote, size_of_packs(pushed.project)) == Evicted()
    assert pushed.remote.counted() == {}


def test_an_eviction_takes_two_listings_of_control_keys_and_one_of_packs(pushed: Pushed) -> None:
    assert evict_from(pushed.project, pushed.remote).packs == 4
    assert pushed.remote.counted() == {"list ctl": 2, "list packs": 1, "list probe": 1, "get packs": 4}


def test_a_pack_of_the_right_length_that_was_torn_there_is_kept_here(pushed: Pushed) -> None:
    torn = pushed.packs[1]
    size = next(pushed.remote.inner.list(pack_key(torn))).size
    assert size is not None
    pushed.remote.inner.delete([pack_key(torn)])
    pushed.remote.inner.put(pack_key(torn), bytes(size))
    assert evict_from(pushed.project, pushed.remote).packs == 3
    assert torn in data_packs(pushed.project)


@pytest.mark.parametrize("how", ["all of it", "its packs"])
def test_our_own_store_seen_another_way_is_no_other_store(pushed: Pushed, tmp_path: Path, how: str) -> None:
    project = pushed.project
    seen = tmp_path / "seen"
    if how == "all of it":
        seen.symlink_to(project.store)
    else:
        create_store(LocalTransport(str(seen)), Host())
        (seen / "packs").symlink_to(project.store / "packs")
    before = packs_in(project)
    push_to(project, LocalTransport(str(seen)))
    if how == "all of it":
        with pytest.raises(ConflictError, match="seen another way"):
            evict_from(project, LocalTransport(str(seen)))
    else:
        assert evict_from(project, LocalTransport(str(seen))).packs == 0
    assert packs_in(project) == before
    assert list(local(project).list("probe/")) == []


def test_what_the_worktree_holds_stays(pushed: Pushed, tmp_path: Path) -> None:
    project = pushed.project
    evict_from(project, pushed.remote)
    head = project.open().read_head()
    assert head is not None
    assert head.commit_id == pushed.last.head.commit_id
    project.restore(head, tmp_path / "restored")
    assert read_folder(tmp_path / "restored") == pushed.models.of[head.commit_id]


def test_what_lists_and_compares_stays(pushed: Pushed) -> None:
    project = pushed.project
    before = packs_in(project)
    evict_from(project, pushed.remote)
    assert before - packs_in(project) == set(pushed.packs[:-1])
    for record in project.history().records():
        objects = project.open().objects(record.locator)
        for entry in objects.read_tree(record.commit.tree):
            assert entry.name in (b"train.py", b"weights.bin")


@pytest.mark.parametrize("what", ["running", "killed"])
def test_the_newest_commit_of_an_experiment_that_has_not_ended_stays(tmp_path: Path, what: str) -> None:
    found = Pushed(tmp_path)
    project = found.project
    forget(project)
    running = project.begin(name="open")
    project.write("weights.bin", noise(2 * MIB, "newest"))
    newest = project.save(running).base.record
    if what == "killed":
        project.open().release_session(running._held or -1)
    forget(project)
    sample(project.root, found.models, 1, name="later", size=2 * MIB)
    push_to(project, found.remote)
    evict_from(project, found.remote)
    project.restore(newest, tmp_path / "restored")
    left = data_packs(project)
    assert len(left) == 2
    project.write("weights.bin", noise(2 * MIB, "newest"))
    saved = project.save(running, metrics={"loss": 0.5})
    assert saved.new_bytes < 100  # the script


def test_a_long_training_gives_up_what_its_newest_checkpoint_does_not_need(tmp_path: Path) -> None:
    project = SampleProject(tmp_path / "project")
    session = project.begin()
    for step in range(75):
        project.write("weights.bin", noise(MIB + 1000, f"{step}"))
        newest = project.save(session, step=step)
    remote = new_remote()
    push_to(project, remote)
    assert evict_from(project, remote).packs > 50
    assert {pack_key(pack) for pack in newest.base.stored.packset} <= {
        info.key for info in local(project).list("packs/")
    }
    project.write("more.txt", "more")
    assert project.save(session).new_bytes < 1000
    session.end("finished")
    check_store(project.store)


def test_what_is_not_pushed_stays(pushed: Pushed) -> None:
    project = pushed.project
    project.write("weights.bin", noise(2 * MIB, f"{project.root} one 0"))  # as the first checkpoint
    project.begin(name="not pushed").end("finished")
    project.write("weights.bin", "small")
    project.begin(name="small").end("finished")
    assert evict_from(project, pushed.remote).packs == 3
    assert pushed.packs[0] in data_packs(project)
    assert push_to(project, pushed.remote).left == 0
    forget_head(project)
    assert evict_from(project, pushed.remote).packs == 2
    check_transport(pushed.remote)


def test_nothing_is_removed_for_a_store_that_was_never_pushed_to(pushed: Pushed) -> None:
    other = new_remote(url="memory://other")
    assert evict_from(pushed.project, other) == Evicted()
    assert len(data_packs(pushed.project)) == 5


@pytest.mark.parametrize("what", ["gone", "shorter"])
def test_what_is_not_found_there_stays_although_it_was_pushed(pushed: Pushed, what: str) -> None:
    key = pack_key(pushed.packs[1])
    data = pushed.remote.inner.get(key)
    pushed.remote.inner.delete([key])
    if what == "shorter":
        pushed.remote.inner.put(key, data[:-1])
    assert evict_from(pushed.project, pushed.remote).packs == 3
    assert data_packs(pushed.project) == [pushed.packs[1], pushed.packs[-1]]
    assert pushed.project.events.warnings == [
        f"1 pushed pack cannot be found whole in {PLACE}: `replicate push --verify` puts what is missing there again"
    ]
    assert push_to(pushed.project, pushed.remote, afresh=True).left == 0
    assert pushed.remote.inner.get(key) == data
    assert evict_from(pushed.project, pushed.remote).packs == 1
    check_transport(pushed.remote)


def test_another_store_at_the_place_is_not_trusted(pushed: Pushed) -> None:
    pushed.remote.empty()
    create_store(pushed.remote, Host())
    assert evict_from(pushed.project, pushed.remote) == Evicted()


def test_a_store_that_is_replaced_meanwhile_is_not_trusted(pushed: Pushed) -> None:
    def replace_it(verb: str, key: str) -> None:
        if (verb, key) == ("list", "ctl/") and pushed.remote.requests.count((verb, key)) == 2:
            pushed.remote.inner.delete([info.key for info in pushed.remote.inner.list("ctl/store")])

    pushed.remote.before = replace_it
    with pytest.raises(StorageReplacedError):
        evict_from(pushed.project, pushed.remote)
    assert len(data_packs(pushed.project)) == 5


def test_where_a_collection_goes_on_nothing_is_removed(pushed: Pushed) -> None:
    pushed.remote.inner.put("ctl/p~" + "0" * 32, b"")
    with pytest.raises(UnsupportedFormatError):
        evict_from(pushed.project, pushed.remote)
    assert len(data_packs(pushed.project)) == 5


def test_while_a_save_is_under_way_nothing_is_removed(pushed: Pushed) -> None:
    with pushed.project.open().saving():
        assert evict_from(pushed.project, pushed.remote) == Evicted()
    assert len(data_packs(pushed.project)) == 5
    assert evict_from(pushed.project, pushed.remote).packs == 4


def test_a_save_that_ends_meanwhile_keeps_what_it_relies_on(pushed: Pushed, tmp_path: Path) -> None:
    project = pushed.project
    saved: list[Session] = []

    def save(verb: str, key: str) -> None:
        if verb == "list" and key.startswith("packs") and not saved:
            project.write("weights.bin", noise(2 * MIB, f"{project.root} one 1"))
            saved.append(project.begin(name="meanwhile"))
            saved[0].end("finished")

    pushed.remote.before = save
    assert evict_from(project, pushed.remote).packs == 3
    assert pushed.packs[1] in data_packs(project)
    project.restore(saved[0].head, tmp_path / "restored")


# -- life goes on


def test_what_was_evicted_is_stored_again_when_it_is_saved_again(pushed: Pushed, tmp_path: Path) -> None:
    project = pushed.project
    evict_from(project, pushed.remote)
    project.write("weights.bin", noise(2 * MIB, f"{project.root} one 0"))
    session = project.begin(name="again")
    session.end("finished")
    project.restore(session.head, tmp_path / "restored")
    assert push_to(project, pushed.remote).left == 0
    check_store(project.store)
    check_transport(pushed.remote)


def test_an_experiment_is_continued_from_a_commit_that_was_evicted(pushed: Pushed, tmp_path: Path) -> None:
    project = pushed.project
    evict_from(project, pushed.remote)
    first = next(one for one in project.history().experiments if one.name == "one")
    session = project.resume(first.experiment_id)
    project.write("more.txt", "more")
    saved = project.save(session)
    session.end("finished")
    project.restore(saved, tmp_path / "restored")
    assert read_folder(tmp_path / "restored") == read_folder(project.root)
    assert push_to(project, pushed.remote).left == 0
    check_transport(pushed.remote)


def test_a_named_path_cannot_be_saved_beside_files_that_were_evicted(pushed: Pushed, tmp_path: Path) -> None:
    project = pushed.project
    evict_from(project, pushed.remote)
    first = next(one for one in project.history().experiments if one.name == "one")
    session = project.resume(first.experiment_id)
    project.write("more.txt", "more")
    with pytest.raises(CorruptionError) as raised:
        project.save(session, "more.txt")
    assert raised.value.hint == "save the whole worktree: checkpoint() without a path"
    pull_from(project, pushed.remote)
    saved = project.save(session, "more.txt")
    project.restore(saved, tmp_path / "restored")
    assert read_folder(tmp_path / "restored").keys() == {b"more.txt", b"train.py", b"weights.bin"}


@pytest.mark.parametrize("is_journal_lost", [False, True])
def test_pushing_goes_on_without_what_was_evicted(pushed: Pushed, is_journal_lost: bool) -> None:
    project = pushed.project
    evict_from(project, pushed.remote)
    if is_journal_lost:
        shutil.rmtree(project.store / "local" / "journal")
    pushed.remote.counted()
    done = push_to(project, pushed.remote, afresh=True)
    assert (done.left, done.records, done.failures) == (0, 0, ())
    assert pushed.remote.counted()["put packs"] == 0
    assert evict_from(project, pushed.remote) == Evicted()


def test_a_lost_list_is_made_again_by_a_push(pushed: Pushed) -> None:
    project = pushed.project
    evict_from(project, pushed.remote)
    before = read_evicted(str(project.store))
    shutil.rmtree(project.store / "local")
    with pytest.raises(AssertionError):
        check_store(project.store)
    assert push_to(project, pushed.remote, dry_run=True).left == 0
    assert read_evicted(str(project.store)) == []
    assert push_to(project, pushed.remote).left == 0
    assert read_evicted(str(project.store)) == before
    check_store(project.store)


def test_what_was_evicted_cannot_be_pushed_to_a_second_store_without_a_pull(pushed: Pushed) -> None:
    project = pushed.project
    evict_from(project, pushed.remote)
    second = new_remote(url="memory://second")
    done = push_to(project, second)
    assert done.left > 0
    assert project.events.warnings == [
        f"4 packs to be pushed lie only in {PLACE}: "
        f"`replicate pull -R {PLACE}` brings back what is there, then push again"
    ]
    check_transport(second)
    pull_from(project, pushed.remote)
    assert push_to(project, second).left == 0
    assert contents(second.inner) == contents(pushed.remote.inner)


def test_a_check_looks_into_what_is_here(tmp_path: Path) -> None:
    import numpy as np

    from tests.weights import safetensors, weights

    project = SampleProject(tmp_path / "project")
    values = weights(1 << 20, seed=1)
    project.write("model.safetensors", safetensors({"w": values}))
    session = project.begin()
    for step in range(1, 4):
        project.write("model.safetensors", safetensors({"w": values + np.float32(step * 1e-6)}))
        project.save(session)
    session.end("finished")
    forget_head(project)
    project.write("model.safetensors", "small")
    project.begin().end("finished")
    remote = new_remote()
    push_to(project, remote)
    assert evict_from(project, remote).packs == 1  # on which the others are differences
    for level in (0, 1, 2, 4):
        check_store(project.store, level)
    meta = next(info for info in local(project).list("packs/"))
    os.truncate(project.store / meta.key, (meta.size or 0) - 1)
    with pytest.raises(AssertionError):
        check_store(project.store, 2)


# -- stopping


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Models]:
    folder = tmp_path_factory.mktemp("sampled")
    found = Pushed(folder, LocalTransport(folder / "remote", durability="fast"))
    return folder, found.models


@pytest.mark.parametrize("side", ["here", "there"])
@pytest.mark.parametrize("mode", ["before", "after"])
def test_an_eviction_may_stop_anywhere(sampled: tuple[Path, Models], tmp_path: Path, mode: Mode, side: str) -> None:
    source, models = sampled
    store = source / "remote"
    for stop_at in range(1, 1000):
        root = tmp_path / f"{stop_at}"
        shutil.copytree(source / "project", root / "project")
        inner = LocalTransport(root / "project" / ".replicate", durability="fast")
        there = LocalTransport(store, durability="fast")
        faults = FaultTransport(inner if side == "here" else there, stop_at, mode)
        project = SampleProject(root / "project", transport=faults if side == "here" else inner)
        is_done = not stopped(project, Remote(faults if side == "there" else there, url=PLACE))
        again = SampleProject(root / "project")
        check_store(again.store)
        check_store(store)
        evict_from(again, Remote(there, url=PLACE))
        assert data_packs(again) == []  # as no worktree holds what it did: the project was copied
        assert len(read_evicted(str(again.store))) == 5
        check_store(again.store)
        assert pull_from(again, there).left == 0
        check_restores(again, models, models.of)
        shutil.rmtree(root)
        if is_done:
            assert stop_at > (3 if side == "there" else 4)
            return


class Unlinks(Disk):
    """A disk that removes so many files and then stops, or refuses."""

    def __init__(self, count: int, error: BaseException) -> None:
        self._left = count
        self._error = error

    def unlink(self, path: str) -> None:
        """Remove a name."""
        if "/packs/" in path:
            self._left -= 1
            if self._left < 0:
                raise self._error
        super().unlink(path)


@pytest.mark.parametrize("count", range(5))
def test_an_eviction_may_stop_between_any_two_packs(pushed: Pushed, count: int) -> None:
    project = pushed.project
    disk = Unlinks(count, Stopped())
    project.transport = LocalTransport(project.store, durability="fast", disk=disk)
    assert stopped(project, pushed.remote) == (count < 4)
    project.transport = None
    assert len(data_packs(project)) == 5 - count
    check_store(project.store)
    assert evict_from(project, pushed.remote).packs == 4 - count
    assert len(read_evicted(str(project.store))) == 4


def test_a_pack_that_cannot_be_removed_stays_and_counts_as_here(pushed: Pushed) -> None:
    project = pushed.project
    disk = Unlinks(1, PermissionError(errno.EPERM, "Operation not permitted"))
    project.transport = LocalTransport(project.store, durability="fast", disk=disk)
    assert evict_from(project, pushed.remote).packs == 1
    project.transport = None
    assert len(read_evicted(str(project.store))) == 1
    check_store(project.store)


def stopped(project: SampleProject, remote: Transport) -> bool:
    try:
        evict_from(project, remote)
    except Stopped:
        return True
    return False


def test_a_full_disk_is_no_obstacle(pushed: Pushed, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []

    def fill(fd: int) -> None:
        tries.append(fd)
        if len(tries) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fill)
    assert evict_from(pushed.project, pushed.remote).packs == 4
    assert len(read_evicted(str(pushed.project.store))) == 4
    assert [path.name for path in (pushed.project.store / "local").glob("evicted*")] == ["evicted"]


def test_a_list_that_cannot_be_written_keeps_the_packs(pushed: Pushed, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageError, match="Input/output error"):
        evict_from(pushed.project, pushed.remote)
    assert len(data_packs(pushed.project)) == 5


# -- the list


def test_the_list_tells_packs_sizes_and_places(tmp_path: Path) -> None:
    (tmp_path / "local").mkdir()
    packs = [
        EvictedPack(some_id(f"{n}"), n, place) for n, place in enumerate(["s3://a/b c", "/mnt/\u00e4\nx", "\u4e00 b"])
    ]
    write_evicted(str(tmp_path), packs)
    assert read_evicted(str(tmp_path)) == packs


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"other\n",
        b"replicate evicted 2\n",
        b"replicate evicted 1\nxx 1 a\n" + b"ab" * 31 + b" 1 a\n",
        b"\xff\xfe\n",
    ],
)
def test_a_list_that_is_none_tells_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "evicted").write_bytes(content)
    assert read_evicted(str(tmp_path)) == []


def test_without_a_list_nothing_was_evicted(tmp_path: Path) -> None:
    assert read_evicted(str(tmp_path / "nowhere")) == []


# -- after a push


def configured(pushed: Pushed, cache: str) -> None:
    pushed.project.config = replace(pushed.project.config, repository=PLACE, cache=cache)


def test_what_is_evicted_is_told(pushed: Pushed) -> None:
    configured(pushed, "0")
    evict_to_limit(pushed.project.open(), pushed.remote, pushed.project.events)
    assert pushed.project.events.notices == [
        f"evicted 8.4 MB in 4 packs that lie in {PLACE}; `replicate checkout` fetches what it needs"
    ]


def test_a_repository_that_cannot_be_asked_is_told(pushed: Pushed) -> None:
    configured(pushed, "0")
    evict_to_limit(pushed.project.open(), MemoryTransport(), pushed.project.events)
    (warning,) = pushed.project.events.warnings
    assert warning.startswith("no packs were removed from this machine, although there are more than `cache:` says: ")


@pytest.mark.parametrize("cache", ["", "none", "100%", "20GB"])
def test_what_fits_is_kept_silently(pushed: Pushed, cache: str) -> None:
    configured(pushed, cache)
    evict_to_limit(pushed.project.open(), pushed.remote, pushed.project.events)
    assert pushed.remote.counted() == {}
    assert (pushed.project.events.notices, pushed.project.events.warnings) == ([], [])


def test_the_limit_is_that_of_the_project(pushed: Pushed) -> None:
    assert cache_limit(pushed.project.open()) is None  # its store is the repository
    configured(pushed, "")
    disk = shutil.disk_usage(pushed.project.store).total
    assert cache_limit(pushed.project.open()) == min(20 * 10**9, disk // 10)
    configured(pushed, "1%")
    assert cache_limit(pushed.project.open()) == disk // 100
    configured(pushed, "none")
    assert cache_limit(pushed.project.open()) is None


def test_nothing_is_evicted_from_what_is_the_repository_itself(pushed: Pushed) -> None:
    pushed.project.config = replace(pushed.project.config, cache="0")
    evict_to_limit(pushed.project.open(), pushed.remote, pushed.project.events)
    assert len(data_packs(pushed.project)) == 5


def test_two_worktrees_of_one_store_keep_what_both_hold(tmp_path: Path) -> None:
    models = Models()
    one = SampleProject(tmp_path / "one")
    sample(one.root, models, 1, name="before", size=2 * MIB)
    forget(one)
    sample(one.root, models, 1, name="one", size=2 * MIB)
    two = SampleProject(tmp_path / "two", store=one.store)
    two.write("weights.bin", noise(2 * MIB, "of two"))
    two.begin(name="two").end("finished")
    remote: Remote = new_remote()
    push_to(one, remote)
    assert len(data_packs(one)) == 3
    evict_from(one, remote)
    assert len(data_packs(one)) == 2

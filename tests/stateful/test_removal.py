"""Removing, bringing back and saving in every order, on two copies of a store that are merged now and then.

A plain model says what is visible: a commit is, unless a removal names it that nobody has taken back. It knows which
key brings which event; what a copy holds is the set of its keys. Of times and the order of records it knows nothing.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from replicate.config import Project
from replicate.experiment_history import ExperimentHistory
from replicate.host import Host
from replicate.lifecycle import remove_checkpoints, remove_experiment, take_back, tombstones_on
from replicate.objects.ids import ObjectID
from replicate.objects.model import Commit, commit_id, encode_commit
from replicate.refs import UndoRecord
from replicate.reporting import SilentReporter
from replicate.repository import Repository
from replicate.transport import MemoryTransport
from tests.builders import numbered_random, some_id

SIDES = st.sampled_from([0, 1])
NUMBERS = st.integers(0, 20)


@dataclass(frozen=True)
class Saved:
    """A commit: who saved it, and after how many others of its line."""

    commit: ObjectID
    session: str
    seq: int


@dataclass(frozen=True)
class Removal:
    """Hides what it names."""

    named: frozenset[ObjectID]


@dataclass(frozen=True)
class TakenBack:
    """Takes a removal back, for ever."""

    removal: str


Event = Saved | Removal | TakenBack


class Copy:
    """A copy of the store."""

    def __init__(self, folder: Path, host: Host) -> None:
        self.transport = MemoryTransport()
        self.project = Project(str(folder), str(folder / ".replicate"))
        self.host = host

    def open(self) -> Repository:
        """Open it as another process would."""
        return Repository(self.project, self.host, SilentReporter(), self.transport)

    @property
    def keys(self) -> set[str]:
        """What it holds."""
        return {info.key for info in self.transport.list("refs/")}


class Removals(RuleBasedStateMachine):
    """Two copies of a store with one experiment. Each has its own clock, which may be ahead, and may stand still."""

    @initialize(ticks=st.tuples(st.integers(0, 1), st.integers(0, 1)), ahead=st.integers(-5, 5))
    def start(self, ticks: tuple[int, int], ahead: int) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="removals-")
        random = numbered_random()
        self.copies = []
        for number, (tick, begin) in enumerate(zip(ticks, (100, 100 + ahead), strict=True)):
            clock = itertools.count(begin, tick)
            host = Host(now_ns=clock.__next__, random=random, name=f"machine{number}")
            self.copies.append(Copy(Path(self.folder.name) / str(number), host))
        self.events: dict[str, Event] = {}
        self.own: tuple[list[Saved], list[Saved]] = ([], [])
        self.root = self._save(0, "0" * 16, None).commit
        self.merge()

    def teardown(self) -> None:
        self.folder.cleanup()

    # -- the model

    def _saved(self, side: int) -> dict[ObjectID, Saved]:
        held = (self.events[key] for key in self.copies[side].keys)
        return {one.commit: one for one in held if isinstance(one, Saved)}

    def _in_force(self, side: int) -> dict[str, frozenset[ObjectID]]:
        held = {key: self.events[key] for key in self.copies[side].keys}
        undone = {one.removal for one in held.values() if isinstance(one, TakenBack)}
        return {key: one.named for key, one in held.items() if isinstance(one, Removal) and key not in undone}

    def _hidden(self, side: int) -> set[ObjectID]:
        return set(self._saved(side)) & set().union(*self._in_force(side).values())

    @contextmanager
    def _new_keys(self, side: int) -> Iterator[set[str]]:
        """Give the keys that are written meanwhile, at the end."""
        before, new = self.copies[side].keys, set[str]()
        yield new
        new |= self.copies[side].keys - before

    def _look(self, side: int) -> ExperimentHistory:
        found = self.copies[side].open().history().experiment(self.root, hidden=True)
        assert found is not None
        return found

    # -- what people do

    def _save(self, side: int, session: str, parent: Saved | None) -> Saved:
        seq = parent.seq + 1 if parent else 0
        commit = Commit(
            tree=some_id(f"tree {len(self.events)}"),
            author="ada@box",
            time_ns=self.copies[side].host.now_ns(),
            parents=(parent.commit,) if parent else (),
            experiment=self.root if parent else None,
            nonce=b"" if parent else bytes(16),
            seq=seq,
            step=seq if parent else None,
        )
        encoded = encode_commit(commit)
        saved = Saved(commit_id(encoded), session, seq)
        fields = {"commit": encoded, "packset": [], "meta": [], "locator": [bytes(some_id("pack")), 32, 100]}
        refs = self.copies[side].open().refs
        record = refs.publish(commit.experiment or saved.commit, seq, session, "c", fields, saved.commit.hex())
        self.events[record.name.key] = saved
        self.own[side].append(saved)
        return saved

    @rule(side=SIDES, number=NUMBERS)
    def save(self, side: int, number: int) -> None:
        """Go on in a session of this copy, after its last commit, whatever was removed meanwhile."""
        if self.own[side]:
            session = self.own[side][number % len(self.own[side])].session
            last = max((one for one in self.own[side] if one.session == session), key=lambda one: one.seq)
            self._save(side, session, last)

    @rule(side=SIDES, number=NUMBERS)
    def resume(self, side: int, number: int) -> None:
        """Continue any commit that this copy knows, in a new session; two that continue the same are a fork."""
        known = self._saved(side)
        parent = known[sorted(known)[number % len(known)]]
        self._save(side, self.copies[side].host.random(8).hex(), parent)

    @rule(side=SIDES)
    def remove_all(self, side: int) -> None:
        """Name every session up to the last commit that is known here: what comes before it elsewhere is named too."""
        known = self._saved(side).values()
        last = {one.session: max(other.seq for other in known if other.session == one.session) for one in known}
        everywhere = [one for one in self.events.values() if isinstance(one, Saved)]
        named = frozenset(one.commit for one in everywhere if one.seq <= last.get(one.session, -1))
        with self._new_keys(side) as keys:
            remove_experiment(self.copies[side].open(), self._look(side), force=True)
        (key,) = keys
        self.events[key] = Removal(named)

    @rule(side=SIDES, chosen=st.sets(NUMBERS, min_size=1, max_size=3))
    def remove_some(self, side: int, chosen: set[int]) -> None:
        known = sorted(self._saved(side).keys() - {self.root})
        if known:
            named = sorted({known[number % len(known)] for number in chosen})
            experiment = self._look(side)
            with self._new_keys(side) as keys:
                records = [experiment.commits[one] for one in named]
                remove_checkpoints(self.copies[side].open(), experiment, records)
            (key,) = keys
            self.events[key] = Removal(frozenset(named))

    def _take_back(self, side: int, wanted: ObjectID | None) -> set[ObjectID]:
        """Bring everything back, or one commit; return what came back."""
        before, experiment = self._hidden(side), self._look(side)
        removals = [one for one, named in self._in_force(side).items() if wanted is None or wanted in named]
        record = experiment.commits[wanted] if wanted else None
        with self._new_keys(side) as keys:
            back = take_back(self.copies[side].open(), experiment, tombstones_on(experiment, record))
        records, _ = self.copies[side].open().refs.read(keys, {})
        for one in records:
            assert isinstance(one, UndoRecord)
            (removal,) = (key for key in self.events if key.endswith(f"~{one.tombstone}"))
            self.events[one.name.key] = TakenBack(removal)
            removals.remove(removal)
        assert not removals
        assert {one.commit_id for one in back} == before - self._hidden(side)
        return {one.commit_id for one in back}

    @rule(side=SIDES)
    def bring_all_back(self, side: int) -> None:
        before = self._hidden(side)
        if self._in_force(side):
            assert self._take_back(side, None) == before
        assert not self._hidden(side)

    @rule(side=SIDES, number=NUMBERS)
    def bring_one_back(self, side: int, number: int) -> None:
        """A checkpoint comes back, and what was removed in one go with it unless another removal names it too."""
        hidden = sorted(self._hidden(side) - {self.root})
        if hidden:
            wanted = hidden[number % len(hidden)]
            assert wanted in self._take_back(side, wanted)

    # -- copying

    def _copy(self, source: int, target: int, keys: set[str]) -> None:
        for key in keys:
            self.copies[target].transport.put(key, self.copies[source].transport.get(key))

    @rule()
    def merge(self) -> None:
        """Both copies hold the union of their keys, and say the same."""
        self._copy(0, 1, self.copies[0].keys)
        self._copy(1, 0, self.copies[1].keys)
        assert self.copies[0].keys == self.copies[1].keys == set(self.events)
        first, second = (self._look(side) for side in (0, 1))
        assert first == second

    @rule(side=SIDES, chance=st.randoms(use_true_random=False))
    def copy_some(self, side: int, chance: Random) -> None:
        """A copy is interrupted, or in the middle of it: one side gets some of the keys, in any order."""
        self._copy(1 - side, side, {key for key in sorted(self.copies[1 - side].keys) if chance.random() < 0.5})

    # -- what is to hold

    @invariant()
    def what_is_visible_is_what_the_model_says(self) -> None:
        for side, copy in enumerate(self.copies):
            found, hidden, saved = self._look(side), self._hidden(side), set(self._saved(side))
            assert set(found.commits) == saved  # nothing is lost, hidden or not
            assert {one.commit_id for one in found.hidden} == hidden
            visible = saved - hidden - {self.root}
            assert {one.commit_id for one in found.checkpoints} == visible
            assert {one.commit_id for one in found.heads} <= visible | {self.root}
            assert bool(visible) == (found.latest is not None)
            assert found.is_hidden == (not visible and self.root in hidden)
            listed = copy.open().history()
            assert [one.experiment_id for one in listed.summaries] == [self.root] * (not found.is_hidden)
            assert [one.experiment_id for one in listed.hidden] == [self.root] * found.is_hidden
            assert [one.removed for one in (*listed.summaries, *listed.hidden)] == [len(hidden)]


TestRemovals = Removals.TestCase
TestRemovals.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)

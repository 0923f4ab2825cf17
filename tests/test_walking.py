from __future__ import annotations

from dataclasses import replace

from replicate.history import History
from replicate.refs import CommitRecord, RecordName, TombstoneRecord
from replicate.walking import newest_first, reachable
from tests.histories import SESSION, checkpoint, history, padded, root


def ids(history: History, *tips: CommitRecord) -> list[str]:
    """Return the beginnings of the ids of what some commits lead to, newest first."""
    return [one.commit_id.hex()[:4] for one in newest_first(history, reachable(history, tips))]


def hide(*records: CommitRecord) -> TombstoneRecord:
    """Return the tombstone of some commits."""
    first = records[0].name
    name = RecordName(first.experiment, 0, SESSION, "x", "-", "1" * 32)
    return TombstoneRecord(name, 0, "ada@box", {}, frozenset(one.commit_id for one in records))


START = root("aaaa", time=100)
FIRST = checkpoint("aaaa", "a1", 1, time=200)
SECOND = checkpoint("aaaa", "a2", 2, parent="a1", time=300)
OTHER = checkpoint("aaaa", "a3", 2, parent="a1", time=400)
FORK = root("bbbb", parent="a2", time=250)


def test_two_heads_meet_in_what_both_follow() -> None:
    told = history(START, FIRST, SECOND, OTHER)
    assert ids(told, SECOND, OTHER) == ["a300", "a200", "a100", "aaaa"]
    assert ids(told, SECOND) == ["a200", "a100", "aaaa"]
    assert ids(told) == []


def test_no_commit_comes_before_one_that_follows_it_whatever_clocks_say() -> None:
    late = [replace(one, commit=replace(one.commit, time_ns=1_000 - one.commit.seq)) for one in (FIRST, SECOND)]
    told = history(START, *late)
    assert ids(told, *told.records()) == ["a200", "a100", "aaaa"]


def test_a_fork_comes_after_nothing_that_follows_it() -> None:
    told = history(START, FIRST, SECOND, FORK)
    assert ids(told, FORK) == ["bbbb", "a200", "a100", "aaaa"]


def test_a_parent_that_is_not_in_the_store_ends_the_walk() -> None:
    assert ids(history(FORK), FORK) == ["bbbb"]


def test_hidden_commits_are_passed_over() -> None:
    told = history(START, FIRST, SECOND, hide(FIRST))
    assert ids(told, SECOND) == ["a200", "aaaa"]
    parent = told.parent_of(SECOND)
    assert parent is not None
    assert parent.commit_id == padded("aaaa")


def test_a_hidden_root_is_reached_while_a_checkpoint_is_visible() -> None:
    assert ids(history(START, FIRST, SECOND, hide(START, FIRST)), SECOND) == ["a200", "aaaa"]

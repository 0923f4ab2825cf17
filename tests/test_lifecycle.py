"""Removing, bringing back, tagging: the rules, and the records that are written."""

from __future__ import annotations

import itertools
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import replicate
from replicate.errors import (
    AmbiguousRevisionError,
    ConflictError,
    InvalidInputError,
    NotFoundError,
    RevisionNotFoundError,
    UnsupportedFormatError,
)
from replicate.experiment_history import ExperimentHistory, assemble
from replicate.history import History
from replicate.host import Host
from replicate.lifecycle import (
    MAX_NOTE_BYTES,
    Change,
    change_tags,
    plan_tags,
    remove_checkpoints,
    remove_experiment,
    sessions_of,
    take_back,
    tombstones_on,
)
from replicate.objects.ids import ObjectID
from replicate.refs import Record, TagRecord, TombstoneRecord
from replicate.refs.records import MAX_HIDDEN_COMMITS
from replicate.revisions import resolve, resolve_hidden
from replicate.session import Session
from tests.histories import checkpoint, history, padded, root
from tests.projects import SampleProject, run_script

A, B = "a" * 16, "b" * 16


@pytest.fixture
def project(tmp_path: Path) -> SampleProject:
    """A project with one file; its clock stands still."""
    project = SampleProject(tmp_path / "project", host=Host(now_ns=lambda: 10**18, name="box"))
    project.write("train.py", "print('training')\n")
    return project


def trained(project: SampleProject, count: int = 3, **given: object) -> Session:
    """Return the session, which has ended, of an experiment with so many checkpoints."""
    session = project.begin({}, **given)
    for step in range(count):
        project.save(session, (), step=step)
    session.end("finished")
    return session


def known(project: SampleProject, session: Session) -> ExperimentHistory:
    """Return an experiment as a fresh look shows it, hidden or not."""
    found = project.history().experiment(session.experiment_id, hidden=True)
    assert found is not None
    return found


def steps(experiment: ExperimentHistory) -> list[int | None]:
    """Return the steps of the visible checkpoints."""
    return [one.commit.step for one in experiment.checkpoints]


# -- removing -------------------------------------------------------------------------------------------------------


def test_a_removed_experiment_is_in_no_list_and_comes_back_whole(project: SampleProject) -> None:
    session = trained(project)
    remove_experiment(project.open(), known(project, session))
    assert list(project.history().summaries) == []
    assert [one.experiment_id for one in project.history().hidden] == [session.experiment_id]
    experiment = known(project, session)
    back = take_back(project.open(), experiment, tombstones_on(experiment, None))
    assert len(back) == 4
    assert steps(project.experiment()) == [0, 1, 2]


def test_the_removal_of_an_experiment_names_every_session_up_to_its_last_seq() -> None:
    records = [
        root("aa"),
        checkpoint("aa", "01", 1, session=A),
        checkpoint("aa", "02", 2, parent="01", session=A),
        checkpoint("aa", "03", 2, parent="01", session=B),
    ]
    (found,) = history(*records).experiments
    assert sessions_of(found) == {"0" * 16: 0, A: 2, B: 2}


def test_what_is_saved_after_the_removal_is_visible(project: SampleProject) -> None:
    session = project.begin({})
    project.save(session, (), step=0)
    remove_experiment(project.open(), known(project, session), force=True)
    project.save(session, (), step=1)
    session.end("finished")
    experiment = project.experiment()
    assert steps(experiment) == [1]
    assert experiment.before(experiment.checkpoints[0]) is experiment.root


def test_an_experiment_that_runs_is_not_removed_unless_forced(project: SampleProject) -> None:
    session = project.begin({})
    with pytest.raises(ConflictError, match="is running; it was not removed"):
        remove_experiment(project.open(), known(project, session))
    assert not known(project, session).is_hidden
    remove_experiment(project.open(), known(project, session), force=True)
    assert known(project, session).is_hidden
    session.end("finished")


def test_removing_a_checkpoint_leaves_the_rest_and_its_followers_find_the_one_before(project: SampleProject) -> None:
    session = trained(project)
    before = known(project, session)
    remove_checkpoints(project.open(), before, [before.checkpoints[1]])
    experiment = project.experiment()
    assert steps(experiment) == [0, 2]
    assert experiment.before(experiment.checkpoints[1]) is experiment.checkpoints[0]
    assert experiment.heads == (experiment.checkpoints[1],)


def test_the_start_alone_is_not_removed(project: SampleProject) -> None:
    experiment = known(project, trained(project))
    with pytest.raises(InvalidInputError, match="cannot be removed alone"):
        remove_checkpoints(project.open(), experiment, [experiment.checkpoints[0], experiment.root])
    assert steps(project.experiment()) == [0, 1, 2]


def test_more_than_a_thousand_checkpoints_are_named_by_several_records(project: SampleProject) -> None:
    session = trained(project, 1)
    experiment = known(project, session)
    (first,) = experiment.checkpoints
    names = [
        replace(first, name=replace(first.name, subject=f"{number:064x}")) for number in range(MAX_HIDDEN_COMMITS + 1)
    ]
    remove_checkpoints(project.open(), experiment, names)
    found = [one for one in project.open().refs.list() if isinstance(one, TombstoneRecord)]
    assert sorted(len(one.commits) for one in found) == [1, MAX_HIDDEN_COMMITS]


def test_what_is_removed_twice_comes_back_when_both_are_taken_back(project: SampleProject) -> None:
    session = trained(project, 1)
    for _ in range(2):
        remove_experiment(project.open(), known(project, session))
    first, second = known(project, session).tombstones
    assert take_back(project.open(), known(project, session), [first]) == ()
    assert len(take_back(project.open(), known(project, session), [second])) == 2


def test_what_was_brought_back_can_be_removed_again(project: SampleProject) -> None:
    session = trained(project, 1)
    for _ in range(3):
        remove_experiment(project.open(), known(project, session))
        assert known(project, session).is_hidden
        experiment = known(project, session)
        take_back(project.open(), experiment, tombstones_on(experiment, None))
        assert not known(project, session).is_hidden


def test_a_tombstone_hides_a_commit_by_any_of_its_records() -> None:
    """Of several records of a commit one is shown; a store that was merged in may bring another, of another session."""
    start, first = root("aa"), checkpoint("aa", "01", 1, session=B)
    again = checkpoint("aa", "01", 1, session=A)
    name = replace(start.name, kind="x", subject="-", record_hash="1" * 32)
    tombstone = TombstoneRecord(name, 0, "ada@box", {B: 1}, frozenset())
    told: list[Record] = [start, first, again, tombstone]
    for records in itertools.permutations(told):
        found = assemble(records)
        assert found is not None
        assert found.checkpoints == ()


def test_nothing_is_removed_in_a_store_of_a_newer_version(project: SampleProject) -> None:
    experiment = known(project, trained(project, 1))
    project.open().transport.put("ctl/feat~write~shiny", b"")
    for call in (
        lambda: remove_experiment(project.open(), experiment),
        lambda: remove_checkpoints(project.open(), experiment, experiment.checkpoints),
        lambda: take_back(project.open(), experiment, ()),
    ):
        with pytest.raises(UnsupportedFormatError):
            call()
    assert steps(project.experiment()) == [0]


# -- what was removed, by name --------------------------------------------------------------------------------------


def test_what_was_removed_is_found_by_id_and_name(project: SampleProject) -> None:
    session = trained(project, 1, name="baseline")
    remove_experiment(project.open(), known(project, session))
    own, one = session.experiment_id.hex(), known(project, session).hidden[1].commit_id.hex()
    for text, wanted in ((own, None), (own[:7], None), ("baseline", None), (one[:7], one)):
        experiment, record = resolve_hidden(project.history(), text)
        assert experiment.experiment_id == session.experiment_id
        assert (record.commit_id.hex() if record else None) == wanted
    with pytest.raises(RevisionNotFoundError) as caught:
        resolve(project.history(), "baseline")
    assert caught.value.hint == "it was removed; `replicate undo baseline` brings it back"


def test_an_experiment_of_which_a_checkpoint_was_removed_is_found_too(project: SampleProject) -> None:
    session = trained(project, name="baseline")
    experiment = known(project, session)
    remove_checkpoints(project.open(), experiment, experiment.checkpoints[:1])
    for text in ("baseline", session.experiment_id.short):
        assert resolve_hidden(project.history(), text)[1] is None


@pytest.mark.parametrize("text", ["nothing", "ffff", "a", "", "X@best", "-"])
def test_what_was_not_removed_is_not_found(project: SampleProject, text: str) -> None:
    trained(project, 1)
    with pytest.raises(RevisionNotFoundError):
        resolve_hidden(project.history(), text)


def test_of_several_removed_with_one_name_none_is_taken(project: SampleProject) -> None:
    for _ in range(2):
        remove_experiment(project.open(), known(project, trained(project, 1, name="baseline")))
    with pytest.raises(AmbiguousRevisionError) as caught:
        resolve_hidden(project.history(), "baseline")
    assert caught.value.hint == "give an id"
    assert len(caught.value.candidates) == 2


# -- tags -----------------------------------------------------------------------------------------------------------


def tagging(experiment: str, commit: str, tag: str) -> TagRecord:
    """Return the record that gave a tag."""
    digest = (commit + tag).encode().hex().ljust(32, "0")
    name = replace(root(experiment).name, kind="t", subject=padded(commit).hex(), record_hash=digest)
    return TagRecord(name, 0, "ada@box", add=(tag,))


def two() -> list[Record]:
    """Return the records of two experiments: `aa`, named cosine, and `bb`; 01 of `aa` has the tag golden."""
    return [
        root("aa", name="cosine"),
        checkpoint("aa", "01", 1),
        checkpoint("aa", "02", 2, parent="01"),
        root("bb"),
        checkpoint("bb", "03", 1),
        tagging("aa", "01", "golden"),
    ]


def change(experiment: str, commit: str, **given: object) -> Change:
    """Return a wanted change."""
    return Change(padded(experiment), padded(commit), **given)  # type: ignore[arg-type]


def plan(wanted: Change, *more: Record, force: bool = False) -> list[Change]:
    """Plan a change in the two experiments."""
    return plan_tags(history(*two(), *more), wanted, force=force)


def test_a_free_word_becomes_a_tag() -> None:
    wanted = change("bb", "03", add=("best-so-far",))
    assert plan(wanted) == [wanted]


def test_a_tag_that_the_commit_has_can_be_given_again() -> None:
    wanted = change("aa", "01", add=("golden",))
    assert plan(wanted) == [wanted]


def test_the_tag_of_another_commit_is_a_conflict_and_moves_by_force() -> None:
    wanted = change("bb", "03", add=("golden",))
    with pytest.raises(ConflictError, match="'golden' is the tag of checkpoint 0100000"):
        plan(wanted)
    assert plan(wanted, force=True) == [wanted, change("aa", "01", remove=("golden",))]


def test_the_name_of_an_experiment_is_a_conflict_and_moves_by_force() -> None:
    wanted = change("bb", "03", add=("cosine",))
    with pytest.raises(ConflictError, match="'cosine' is the name of experiment aa00000"):
        plan(wanted)
    assert plan(wanted, force=True) == [wanted, change("aa", "aa", name="")]


def test_an_experiment_cannot_have_its_name_as_tag_but_by_force_it_is_one_then() -> None:
    wanted = change("aa", "aa", add=("cosine",))
    with pytest.raises(ConflictError):
        plan(wanted)
    assert plan(wanted, force=True) == [change("aa", "aa", add=("cosine",), name="")]


def test_a_name_that_is_anothers_tag_is_a_conflict_too() -> None:
    wanted = change("bb", "bb", name="golden")
    with pytest.raises(ConflictError):
        plan(wanted)
    assert plan(wanted, force=True) == [wanted, change("aa", "01", remove=("golden",))]


def test_a_word_that_several_have_is_not_taken_from_them_even_by_force() -> None:
    shared = tagging("bb", "bb", "sweep"), tagging("aa", "aa", "sweep")
    with pytest.raises(ConflictError, match="2 commits have 'sweep' as a tag or name"):
        plan(change("aa", "02", add=("sweep",)), *shared, force=True)


def test_name_and_tag_of_one_commit_move_together() -> None:
    wanted = change("bb", "bb", add=("green",), name="cosine")
    moved = plan(wanted, tagging("aa", "aa", "green"), force=True)
    assert moved == [wanted, change("aa", "aa", remove=("green",), name="")]


@pytest.mark.parametrize(
    "given",
    [
        {"add": ("abcd",)},
        {"add": ("0123456789",)},
        {"add": ("latest",)},
        {"add": ("best",)},
        {"add": ("a@b",)},
        {"add": ("a~1",)},
        {"add": ("a:b",)},
        {"add": ("a/b",)},
        {"add": ("-x",)},
        {"add": ("",)},
        {"add": (" x",)},
        {"add": ("x\ny",)},
        {"add": ("\udcff",)},
        {"add": ("x" * 101,)},
        {"name": "cafe"},
        {"add": ("twice",), "remove": ("twice",)},
        {"add": ("twice",), "name": "twice"},
        {"note": "n" * (MAX_NOTE_BYTES + 1)},
        {"note": "\udcff"},
    ],
)
def test_words_that_could_not_be_typed_as_a_revision_are_refused(given: dict[str, object]) -> None:
    with pytest.raises(InvalidInputError):
        plan(change("bb", "bb", **given), force=True)


def test_a_checkpoint_has_no_name() -> None:
    with pytest.raises(InvalidInputError, match="is a checkpoint, which has no name"):
        plan(change("aa", "01", name="other"))


def test_a_tag_that_is_not_there_cannot_be_removed() -> None:
    with pytest.raises(NotFoundError, match="0200000 has no tag 'golden'"):
        plan(change("aa", "02", remove=("golden",)))


def test_a_removed_holder_of_a_word_is_in_nobodys_way() -> None:
    name = replace(root("aa").name, kind="x", subject="-", record_hash="9" * 32)
    tombstone = TombstoneRecord(name, 0, "ada@box", {"0" * 16: 9}, frozenset())
    wanted = change("bb", "03", add=("golden", "cosine"))
    assert plan(wanted, tombstone) == [wanted]


def own(project: SampleProject, session: Session, **given: object) -> History:
    """Change tags of an experiment, and return what a fresh look shows."""
    wanted = Change(session.experiment_id, session.experiment_id, **given)  # type: ignore[arg-type]
    change_tags(project.open(), project.history(), wanted)
    return project.history()


def test_changes_apply_one_after_the_other_though_the_clock_stands_still(project: SampleProject) -> None:
    session = trained(project, 1, name="first", tags=("sweep",))
    for number in range(20):
        found = own(project, session, add=(f"tag-{number}",), name=f"name-{number}", note=f"note {number}")
        (summary,) = found.summaries
        assert (summary.name, summary.note) == (f"name-{number}", f"note {number}")
        found = own(project, session, remove=(f"tag-{number}",))
        assert found.summaries[0].tags == ("sweep",)
    (summary,) = own(project, session, name="", note="", remove=("sweep",)).summaries
    assert (summary.name, summary.note, summary.tags) == (None, "", ())


def test_a_change_comes_after_those_of_a_machine_whose_clock_is_ahead(project: SampleProject) -> None:
    session = trained(project, 1)
    fields = TagRecord.fields(2 * 10**18, "ada@other", name="ahead")
    own_id = session.experiment_id
    project.open().refs.publish(own_id, 0, A, "t", fields, own_id.hex())
    assert own(project, session, name="mine").summaries[0].name == "mine"


# -- in Python ------------------------------------------------------------------------------------------------------


def collection(project: SampleProject) -> replicate.ExperimentCollection:
    """Return the experiments of a project."""
    return replicate.ExperimentCollection(project.root)


def test_experiments_and_checkpoints_are_deleted_and_brought_back_in_python(project: SampleProject) -> None:
    session = trained(project, name="baseline")
    experiments = collection(project)
    experiments.get("baseline").checkpoints[0].delete()
    assert experiments.get("baseline").checkpoints.step == [1, 2]
    experiments.delete("latest")
    assert experiments.get("baseline").checkpoints.step == [1]
    experiments.undelete("baseline")
    assert experiments.get("baseline").checkpoints.step == [0, 1, 2]
    experiments.get("baseline").delete()
    assert len(experiments) == 0
    experiments.undelete(session.experiment_id.hex())
    experiments.delete("baseline")
    assert len(experiments) == 0


def test_an_experiment_that_runs_is_deleted_in_python_only_by_force(project: SampleProject) -> None:
    session = project.begin({}, name="running")
    with pytest.raises(ConflictError):
        collection(project).get("running").delete()
    with pytest.raises(ConflictError):
        collection(project).delete("running")
    collection(project).get("running").delete(force=True)
    assert len(collection(project)) == 0
    session.end("finished")


def test_tags_in_python_are_revisions(project: SampleProject) -> None:
    trained(project, name="baseline", tags=("sweep",))
    experiment = collection(project).get("baseline")
    experiment.checkpoints[1].tag("golden", note="looks good")
    experiment.tag("kept", remove=["sweep"], name="renamed", note="the one")
    assert (experiment.tags, experiment.name, experiment.note) == (["kept"], "renamed", "the one")
    assert collection(project).get("kept").name == "renamed"
    golden = collection(project).checkpoint("golden")
    assert (golden.step, golden.tags) == (1, ["golden"])
    assert experiment.checkpoints[1].tags == ["golden"]
    with pytest.raises(ConflictError):
        experiment.checkpoints[2].tag("golden")
    experiment.checkpoints[2].tag("golden", force=True)
    assert collection(project).checkpoint("golden").step == 2


def test_where_nothing_is_recorded_tags_and_deletion_do_nothing(tmp_path: Path) -> None:
    text = """
import replicate
experiment = replicate.init()
experiment.tag("golden", note="x")
saved = replicate.checkpoint(step=0)
saved.tag("golden")
saved.delete()
experiment.delete()
print(experiment.tags, saved.tags, repr(experiment.note))
"""
    ran = run_script(tmp_path, text, REPLICATE_MODE="disabled")
    assert (ran.stdout, ran.stderr, ran.returncode) == ("[] [] ''\n", "", 0), sys.version


def test_ids_of_the_change_are_those_of_the_store(project: SampleProject) -> None:
    session = trained(project, 1)
    nowhere = ObjectID(bytes(32))
    for experiment, commit in ((nowhere, nowhere), (session.experiment_id, nowhere)):
        with pytest.raises(NotFoundError, match="is not in the store any more"):
            change_tags(project.open(), project.history(), Change(experiment, commit, note="x"))

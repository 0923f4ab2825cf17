from __future__ import annotations

import pytest

from replicate.objects.ids import ObjectID
from replicate.objects.model import Mode, TreeEntry, encode_tree
from replicate.refs import EndRecord, StartRecord
from tests.builders import some_id
from tests.cli.conftest import Vision
from tests.cli.shell import Shell
from tests.projects import SampleProject, store_files

SEE = "hint: see `replicate commit-tree --help`\n"


def test_a_tree_alone_starts_an_experiment(shell: Shell, vision: Vision) -> None:
    result = shell("commit-tree", "latest:", "--name", "made", "--param", "lr=0.5", "--tag", "hand")
    assert (len(result.lines), result.err, result.code) == (1, "", 0)
    root = vision.project.history().experiments[-1].root
    assert root.commit_id.hex() == result.lines[0]
    assert (root.commit.name, dict(root.commit.params), root.commit.tags) == ("made", {"lr": 0.5}, ("hand",))
    assert (root.commit.parents, root.files, root.bytes) == (
        (),
        3,
        len("durability: fast\nprint('training')\nwarmup\n"),
    )
    assert root.commit.command.startswith("replicate commit-tree latest: --name made")


def test_a_commit_after_another_is_a_checkpoint_of_its_experiment(shell: Shell, vision: Vision) -> None:
    second = vision.baseline.ids[1]
    (made,) = shell("commit-tree", "latest:", "-p", second, "-m", "loss=0.125").lines
    record = vision.project.history().commits[
        next(one for one in vision.project.history().commits if one.hex() == made)
    ]
    assert record.commit.parents[0].hex() == second
    assert record.commit.experiment is not None
    assert record.commit.experiment.hex() == vision.baseline.id
    assert (record.commit.seq, record.commit.step, dict(record.commit.metrics)) == (3, 2, {"loss": 0.125})
    assert record.commit.primary_metric == ("loss", "minimize")  # that of the experiment stays in force
    assert len(vision.project.history().experiments[0].heads) == 2


def test_an_experiment_is_continued_after_its_newest_commit(shell: Shell, vision: Vision) -> None:
    (made,) = shell("commit-tree", "latest:", "-e", "baseline", "--step", "9").lines
    assert shell("rev-list", "--parents", "-n", "1", made).lines == [f"{made} {vision.baseline.ids[-1]}"]
    assert shell("show", made, "--json").json["step"] == 9


def test_an_experiment_alone_as_a_parent_is_its_start(shell: Shell, vision: Vision) -> None:
    (made,) = shell("commit-tree", "latest:", "-p", "baseline").lines
    assert shell("rev-list", "--parents", "-n", "1", made).lines == [f"{made} {vision.baseline.id}"]


def test_an_experiment_may_be_forked_from_a_commit(shell: Shell, vision: Vision) -> None:
    parent = vision.baseline.ids[1]
    (made,) = shell("commit-tree", "latest:", "--new", "-p", parent, "--name", "fork").lines
    root = vision.project.history().experiments[-1].root
    assert root.commit_id.hex() == made
    assert [one.hex() for one in root.commit.parents] == [parent]


@pytest.mark.parametrize("tree", ["id", "latest", "latest:", "baseline@best:data"])
def test_a_tree_is_named_by_id_revision_or_path(shell: Shell, vision: Vision, tree: str) -> None:
    vision.project.write("data/a", "a")
    session = vision.project.resume(vision.baseline.session.experiment_id)
    vision.project.save(session, metrics={"loss": 0.0})
    session.end("finished")
    (wanted,) = shell("rev-parse", tree if ":" in tree else "latest:").lines
    (made,) = shell("commit-tree", wanted if tree == "id" else tree).lines
    assert shell("rev-parse", f"{made}:").lines == [wanted]


def test_a_commit_is_a_session_of_its_own_that_finished(shell: Shell, vision: Vision) -> None:
    assert shell("commit-tree", "latest:", "-e", "warmup").code == 0
    (listed,) = shell("ls", "--json", "-f", "name = warmup").json
    assert (listed["status"], listed["num_checkpoints"]) == ("finished", 2)  # the session before had failed
    experiment = vision.project.history().experiments[-1]
    records = vision.project.open().refs.list(experiment.experiment_id)
    made = experiment.checkpoints[-1].name.session
    own = [one for one in records if one.name.session == made]
    (start,) = (one for one in own if isinstance(one, StartRecord))
    (end,) = (one for one in own if isinstance(one, EndRecord))
    assert (start.name.seq, end.name.seq, end.status) == (1, 2, "finished")
    assert len(own) == 3


def test_the_worktree_stays_where_it_was(shell: Shell, vision: Vision) -> None:
    before = shell("status", "--json").json
    assert shell("commit-tree", "baseline@start:", "-e", "warmup").code == 0
    assert {**shell("status", "--json").json, "experiments": 2} == before


def test_a_large_file_of_another_commit_costs_nothing(shell: Shell, vision: Vision) -> None:
    vision.project.write("big.bin", bytes(range(256)) * 40_000)
    assert shell("checkpoint", "-q").code == 0
    before = sum(path.stat().st_size for path in store_files(vision.project.store, "packs"))
    (made,) = shell("commit-tree", "latest:", "--name", "copy").lines
    assert sum(path.stat().st_size for path in store_files(vision.project.store, "packs")) - before < 5_000
    assert shell("show", f"{made}:big.bin").raw == bytes(range(256)) * 40_000


# -- what is refused leaves no trace


def test_a_tree_whose_file_is_not_in_the_store_is_refused(shell: Shell, vision: Vision) -> None:
    missing = some_id("missing")
    tree = _store_tree(vision.project, TreeEntry(b"deep", Mode.FILE, 5, missing))
    files = store_files(vision.project.store, "refs")
    for parent in ((), ("-e", "warmup")):
        shell.fails(
            3,
            f"error: deep cannot be committed: blob {missing.hex()} is not in the store\n"
            "hint: store the file: `replicate hash-object -w FILE`\n",
            *("commit-tree", tree, *parent),
        )
    assert store_files(vision.project.store, "refs") == files


def test_a_tree_whose_folder_is_not_in_the_store_is_refused(shell: Shell, vision: Vision) -> None:
    missing = some_id("missing")
    tree = _store_tree(vision.project, TreeEntry(b"deep", Mode.DIRECTORY, 5, missing))
    shell.fails(3, f"error: tree {missing.hex()} is not in the store\n", "commit-tree", tree)


@pytest.mark.parametrize("mode", [Mode.FILE, Mode.DIRECTORY])
def test_a_tree_that_claims_a_wrong_size_is_refused(shell: Shell, vision: Vision, mode: Mode) -> None:
    entry = next(one for one in _read_root(vision) if one.name == b"train.py")
    if mode is Mode.DIRECTORY:
        folder = bytes.fromhex(shell("rev-parse", "latest:").lines[0])
        entry = TreeEntry(b"train.py", mode, 0, ObjectID(folder))
    tree = _store_tree(vision.project, entry._replace(size_bytes=17))
    result = shell("commit-tree", tree)
    assert result.err.startswith("error: train.py cannot be committed: its tree claims another size\n")
    assert result.code == 5


def test_an_entry_of_the_wrong_kind_is_refused(shell: Shell, vision: Vision) -> None:
    wrong = bytes.fromhex(shell("rev-parse", "latest:").lines[0])
    tree = _store_tree(vision.project, TreeEntry(b"a", Mode.FILE, 5, ObjectID(wrong)))
    result = shell("commit-tree", tree)
    assert result.err.startswith(f"error: a cannot be committed: blob {wrong.hex()} is not in the store\n")
    assert result.code == 3


def _store_tree(project: SampleProject, *entries: TreeEntry) -> str:
    """Store a tree, whatever it names, and return its id."""
    repository = project.open()
    repository.index.refresh()
    repository.index.begin_save()
    writer = repository.writer()
    tree, _ = writer.write_tree(encode_tree(entries))
    writer.finish_loose()
    writer.close()
    return tree.hex()


def _read_root(vision: Vision) -> list[TreeEntry]:
    record = vision.warmup.saves[0].base.record
    return vision.project.open().objects(record.locator).read_tree(record.commit.tree)


OF_CHECKPOINTS = f"--step and --metric belong to a checkpoint: name its parent with -p or -e\n{SEE}"
OF_EXPERIMENTS = f"--param, --name and --tag belong to a new experiment: leave -p and -e out, or add --new\n{SEE}"
AS_ONE = f"-e does not go with -p and --new\n{SEE}"
NO_COMMIT = "latest:train.py names a path, not a commit\nhint: leave out what follows the colon\n"
AFTER = ("latest:", "-e", "warmup")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("latest:train.py",), 3, "latest:train.py is a file, not a folder\nhint: `replicate cat-file` prints it\n"),
        (("ab" * 32,), 3, f"no object has an id that begins with {'ab' * 32}\n"),
        (("latest:", "-p", "latest:train.py"), 2, NO_COMMIT),
        (("latest:", "--step", "1"), 2, OF_CHECKPOINTS),
        (("latest:", "-m", "a=1"), 2, OF_CHECKPOINTS),
        ((*AFTER, "--name", "x"), 2, OF_EXPERIMENTS),
        ((*AFTER, "--tag", "x"), 2, OF_EXPERIMENTS),
        ((*AFTER, "--param", "x=1"), 2, OF_EXPERIMENTS),
        ((*AFTER, "-p", "latest"), 2, AS_ONE),
        ((*AFTER, "--new"), 2, AS_ONE),
        ((*AFTER, "-m", "loss"), 2, "--metric loss: it must be NAME=VALUE\n"),
        ((*AFTER, "--primary-metric", "a:minimize"), 2, "primary metric 'a' is not in metrics (given: none)\n"),
        (("latest:", "--primary-metric", "a"), 2, "--primary-metric a: it must be NAME:minimize or NAME:maximize\n"),
        (("latest:", "--name", "a/b"), 2, "'a/b' is no name: it must not hold @ ~ : / or control characters\n"),
        (("latest:", "--tag", "latest"), 2, "'latest' is no name: it has a meaning as a revision\n"),
        ((*AFTER, "--step", "9" * 20), 2, f"step {'9' * 20} does not fit into 64 bits\n"),
        ((), 2, f"missing argument 'TREE'\n{SEE}"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(
    shell: Shell, vision: Vision, arguments: tuple[str, ...], code: int, message: str
) -> None:
    files = store_files(vision.project.store, "refs", "packs")
    shell.fails(code, f"error: {message}", "commit-tree", *arguments)
    assert store_files(vision.project.store, "refs", "packs") == files

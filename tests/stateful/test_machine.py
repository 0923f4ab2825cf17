"""A long history against a plain model: every commit's files are kept in a dict, and every commit restores to them."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule

from replicate.objects.ids import ObjectID
from replicate.refs import CommitRecord
from replicate.session import Session
from tests.projects import Content, SampleProject, check_store, read_folder

NAMES = st.sampled_from(["a", "b", "dir/a", "dir/b", "dir/deep/a", "other/a", "model.pt", "dir", "other"])
CONTENTS = st.sampled_from([b"", b"one", b"two", b"x" * 5000, bytes(range(256)) * 40])
PATHS = st.sampled_from(["a", "dir", "dir/deep", "other/a", "model.pt", "dir/deep/a"])

Model = dict[bytes, Content]


class Machine(RuleBasedStateMachine):
    """One project, several sessions one after the other, caches that vanish, folders that are copied."""

    commits = Bundle("commits")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="machine-"))
        self.project = SampleProject(self.folder / "project")
        self.models: dict[ObjectID, Model] = {}
        self.session: Session | None = None
        self.restored = 0

    def teardown(self) -> None:
        if self.session is not None:
            self.session.end("finished")
            check_store(self.project.store)
        shutil.rmtree(self.folder)

    def keep(self, record: CommitRecord, model: Model) -> CommitRecord:
        self.models[record.commit_id] = model
        return record

    @initialize(target=commits)
    def start(self) -> CommitRecord:
        self.session = self.project.begin()
        return self.keep(self.session.head, read_folder(self.project.root))

    @rule(name=NAMES, content=CONTENTS, executable=st.booleans())
    def write(self, name: str, content: bytes, executable: bool) -> None:
        path = self.project.root / name
        for parent in [*path.parents][::-1]:
            if parent.is_symlink() or parent.is_file():
                parent.unlink()
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        if path.is_symlink() or path.exists():
            path.unlink()
        self.project.write(name, content, executable=executable)

    @rule(name=NAMES, to=st.sampled_from(["a", "nowhere", "../../outside"]))
    def link(self, name: str, to: str) -> None:
        path = self.project.root / name
        if path.parent.is_dir() and not os.path.lexists(path):
            path.symlink_to(to)

    @rule(name=NAMES)
    def remove(self, name: str) -> None:
        path = self.project.root / name
        if path.is_symlink() or path.is_file():
            path.unlink()
        elif path.is_dir():
            shutil.rmtree(path)

    @rule(target=commits)
    def save_everything(self) -> CommitRecord:
        assert self.session is not None
        saved = self.project.save(self.session)
        return self.keep(saved.base.record, read_folder(self.project.root))

    @rule(target=commits)
    def save_metrics_only(self) -> CommitRecord:
        assert self.session is not None
        before = self.models[self.session.head.commit_id]
        saved = self.project.save(self.session, (), metrics={"loss": 0.5})
        return self.keep(saved.base.record, dict(before))

    @rule(target=commits, path=PATHS)
    def save_a_path(self, path: str) -> object:
        assert self.session is not None
        if not os.path.lexists(self.project.root / path) or (self.project.root / path).parent.is_symlink():
            return multiple()
        if os.path.realpath((self.project.root / path).parent) != str((self.project.root / path).parent):
            return multiple()
        model = dict(self.models[self.session.head.commit_id])
        now = read_folder(self.project.root)
        raw = path.encode()
        for known in list(model):
            if known == raw or known.startswith(raw + b"/"):
                del model[known]
        parents = [raw.rsplit(b"/", depth)[0] for depth in range(raw.count(b"/"), 0, -1)]
        for parent in parents:
            if model.get(parent, ("folder", b""))[0] != "folder":
                del model[parent]
            model.setdefault(parent, ("folder", b""))
        model.update({name: content for name, content in now.items() if name == raw or name.startswith(raw + b"/")})
        saved = self.project.save(self.session, path)
        return self.keep(saved.base.record, model)

    @rule(target=commits)
    def end_and_resume(self) -> object:
        assert self.session is not None
        self.session.end("finished")
        self.session = self.project.resume(self.session.experiment_id)
        return multiple()

    @rule(target=commits)
    def end_and_begin(self) -> CommitRecord:
        assert self.session is not None
        self.session.end("finished")
        self.session = self.project.begin()
        return self.keep(self.session.head, read_folder(self.project.root))

    @rule()
    def lose_the_caches(self) -> None:
        """Everything in local/ may vanish at any time (I4), also under a session that runs."""
        shutil.rmtree(self.project.store / "local" / "cache", ignore_errors=True)

    @rule(record=commits)
    def restore_elsewhere(self, record: CommitRecord) -> None:
        self.restored += 1
        target = self.folder / f"restored-{self.restored}"
        self.project.restore(record, target)
        assert read_folder(target) == self.models[record.commit_id]

    @rule(record=commits)
    def restore_into_the_worktree(self, record: CommitRecord) -> None:
        for path in self.project.root.iterdir():  # so that no folder stands where a file is wanted
            if path.name != ".replicate":
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        self.project.restore(record, self.project.root)
        assert read_folder(self.project.root) == self.models[record.commit_id]

    @rule(record=commits)
    def restore_from_a_copy(self, record: CommitRecord) -> None:
        """A store that was copied elsewhere holds the same commits."""
        self.restored += 1
        copy = SampleProject(self.folder / f"copy-{self.restored}")
        shutil.copytree(self.project.store, copy.store)
        copy.restore(record, copy.root / "out")
        assert read_folder(copy.root / "out") == self.models[record.commit_id]

    @invariant()
    def every_commit_is_listed(self) -> None:
        if self.models:
            assert set(self.models) == set(self.project.history().commits)


TestMachine = Machine.TestCase
TestMachine.settings = settings(
    max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)

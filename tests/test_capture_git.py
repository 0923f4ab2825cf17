"""The Git state of a project: real worktrees, and a `git` that is missing, hanging, or broken."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from replicate.capture import Capture
from replicate.capture.git import Git, GitFacts, choose_remote, clean_remote, find_worktree, parse_status
from replicate.capture.patch import MAX_PATCH_BYTES, path_of, read_patch
from replicate.host import Host
from tests.projects import git

COMMIT = "0123456789" * 4


@pytest.fixture
def worktree(tmp_path: Path) -> Path:
    """A Git worktree with one commit of one file."""
    folder = Path(os.path.realpath(tmp_path)) / "code"
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / "train.py").write_text("lr = 1\n")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "first")
    return folder


def facts(folder: Path, seconds: float = 60, program: str = "git") -> GitFacts:
    """Return what `git` tells of a project in `folder`."""
    found = find_worktree(str(folder))
    assert found is not None
    until = time.monotonic() + seconds
    return Git(str(folder), found, program).collect(lambda: until - time.monotonic())


def program(tmp_path: Path, script: str) -> str:
    """Return a program that is called instead of `git`."""
    path = tmp_path / "fake-git"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


# -- what is recorded


def test_a_clean_worktree_has_a_commit_and_a_branch(worktree: Path) -> None:
    assert facts(worktree) == GitFacts(
        {"commit": git(worktree, "rev-parse", "HEAD"), "branch": "main", "dirty": False}, None
    )


def test_changes_make_it_dirty_and_are_kept_as_a_patch(worktree: Path) -> None:
    (worktree / "train.py").write_text("lr = 2\n")
    (worktree / "new.py").write_text("staged\n")
    (worktree / "untracked.py").write_text("no part of it\n")
    git(worktree, "add", "new.py")
    found = facts(worktree)
    assert found.summary["dirty"] is True
    assert found.patch is not None
    assert b"-lr = 1\n+lr = 2\n" in found.patch
    assert b"+staged\n" in found.patch
    assert b"untracked" not in found.patch
    git(worktree, "stash", "-q")
    subprocess.run(["git", "apply"], input=found.patch, cwd=worktree, check=True)
    assert (worktree / "train.py").read_text() == "lr = 2\n"


def test_an_untracked_file_does_not_make_it_dirty(worktree: Path) -> None:
    (worktree / "untracked.py").write_text("x\n")
    assert facts(worktree).summary["dirty"] is False


def test_a_project_below_the_worktree_belongs_to_it(worktree: Path) -> None:
    (worktree / "a" / "b").mkdir(parents=True)
    (worktree / "train.py").write_text("lr = 3\n")
    found = facts(worktree / "a" / "b")
    assert found.summary["branch"] == "main"
    assert found.patch is not None
    assert b"diff --git a/train.py b/train.py" in found.patch


def test_a_detached_head_has_no_branch(worktree: Path) -> None:
    git(worktree, "checkout", "-q", "--detach")
    assert sorted(facts(worktree).summary) == ["commit", "dirty"]


def test_a_worktree_without_a_commit_has_a_branch_only(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / "a").write_text("a")
    git(tmp_path, "add", "a")
    assert facts(tmp_path) == GitFacts({"branch": "main", "dirty": True})


def test_a_linked_worktree_and_a_submodule_are_worktrees(worktree: Path, tmp_path: Path) -> None:
    git(worktree, "worktree", "add", "-q", "-b", "side", str(tmp_path / "linked"))
    assert facts(tmp_path / "linked").summary["branch"] == "side"
    git(worktree, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(worktree), "sub")
    assert facts(worktree / "sub").summary["commit"] == git(worktree, "rev-parse", "HEAD")
    assert facts(worktree).summary["dirty"] is True


def test_changed_binary_files_are_named_only(worktree: Path) -> None:
    (worktree / "model.bin").write_bytes(bytes(range(256)))
    git(worktree, "add", "-A")
    found = facts(worktree)
    assert found.patch is not None
    assert found.patch.endswith(b"Binary files /dev/null and b/model.bin differ\n")


def test_nothing_the_user_configured_is_run_or_changes_the_patch(worktree: Path, tmp_path: Path) -> None:
    trap = program(tmp_path, f"touch {tmp_path}/run; cat")
    for key in ("diff.external", "core.pager", "core.fsmonitor", "diff.x.textconv", "diff.x.command"):
        git(worktree, "config", key, trap)
    for key, value in {"diff.noprefix": "true", "color.ui": "always", "diff.relative": "true"}.items():
        git(worktree, "config", key, value)
    (worktree / ".gitattributes").write_text("* diff=x\n")
    (worktree / "train.py").write_text("lr = 2\n")
    found = facts(worktree)
    assert found.patch is not None
    assert found.patch.startswith(b"diff --git a/train.py b/train.py\n")
    assert not (tmp_path / "run").exists()


def test_another_repository_named_by_the_environment_is_not_meant(
    worktree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = facts(worktree)
    (tmp_path / "other").mkdir()
    git(tmp_path / "other", "init", "-q")
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "other" / ".git"))
    assert facts(worktree) == wanted


# -- less than that


def test_without_a_worktree_no_program_is_started(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "--bare", "bare.git")
    assert find_worktree(str(tmp_path / "bare.git")) is None


@pytest.mark.parametrize(
    "script",
    [
        "exit 1",
        "echo garbage",
        "head -c 100000 /dev/zero",
        "printf '# branch.oid'",
        "kill -9 $$",
        "echo usage: git; exit 129",
        "yes '# x'",
    ],
)
def test_a_broken_git_tells_nothing(worktree: Path, tmp_path: Path, script: str) -> None:
    assert facts(worktree, program=program(tmp_path, script)) == GitFacts()


def test_a_git_that_is_not_there_tells_nothing(worktree: Path, tmp_path: Path) -> None:
    assert facts(worktree, program=str(tmp_path / "no-such-git")) == GitFacts()
    (tmp_path / "no-program").write_text("")
    assert facts(worktree, program=str(tmp_path / "no-program")) == GitFacts()


def test_a_damaged_repository_tells_nothing(worktree: Path) -> None:
    (worktree / ".git" / "HEAD").write_bytes(b"\0")
    assert facts(worktree) == GitFacts()


def test_a_worktree_of_somebody_else_tells_nothing(worktree: Path, tmp_path: Path) -> None:
    other = program(tmp_path, 'GIT_TEST_ASSUME_DIFFERENT_OWNER=1 exec git "$@"')
    assert facts(worktree, program=other) == GitFacts()


def test_a_hanging_git_is_told_and_killed_with_what_it_started(worktree: Path, tmp_path: Path) -> None:
    hanging = program(tmp_path, f"sleep 1000 & echo $! >> {tmp_path}/pids; wait")
    found = Git(str(worktree), str(worktree), hanging)
    while len((tmp_path / "pids").read_text().split() if (tmp_path / "pids").exists() else []) < 3:
        os.sched_yield()
    assert found.collect(lambda: 0.0) == GitFacts(notices=("git did not answer in 5 s: the commit is not recorded",))
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    while not all(_is_gone(pid) for pid in pids):
        os.sched_yield()


def _is_gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"


def test_a_diff_that_hangs_leaves_the_commit(worktree: Path, tmp_path: Path) -> None:
    (worktree / "train.py").write_text("lr = 2\n")
    hanging = program(tmp_path, 'for a in "$@"; do [ "$a" = diff ] && exec sleep 1000; done; exec git "$@"')
    asked = Git(str(worktree), str(worktree), hanging)
    found = asked.collect(lambda: 0.0 if asked._remotes._process is None else 60.0)
    assert found.summary["dirty"] is True
    assert (found.patch, found.notices) == (
        None,
        ("git did not answer in 5 s: the changes since the commit are not recorded",),
    )


def test_a_session_that_never_begins_leaves_no_process(worktree: Path, tmp_path: Path) -> None:
    captured = Capture({}, {}, "", "", root=str(worktree))
    captured.ask()
    assert captured._git is not None
    process = captured._git._status._process
    assert process is not None
    captured.close()
    assert process.returncode is not None
    assert captured.finish(Host()) == ()


# -- the answers


def test_the_status_is_read() -> None:
    lines = [f"# branch.oid {COMMIT}", "# branch.head a/b", "# branch.upstream o/a/b", "# branch.ab +0 -0"]
    wanted = {"commit": COMMIT, "branch": "a/b", "upstream": "o/a/b", "dirty": False}
    assert parse_status("\0".join(lines).encode()) == wanted
    assert parse_status("\0".join([*lines, "1 .M N... 100644 100644 100644 x y z"]).encode()) == {
        **wanted,
        "dirty": True,
    }
    assert parse_status(b"# branch.oid (initial)\0# branch.head (detached)\0") == {"dirty": False}
    assert parse_status(b"# branch.oid not-a-commit\0# branch.head main\0") == {}


@pytest.mark.parametrize(
    ("upstream", "chosen"),
    [("", "O"), ("fork/main", "F"), ("fork/x/main", "X"), ("gone/main", "O")],
)
def test_the_remote_is_the_one_that_the_branch_follows_else_origin(upstream: str, chosen: str) -> None:
    told = b"remote.fork.url\nF\0remote.origin.url\nO\0remote.fork/x.url\nX\0"
    assert choose_remote(told, upstream) == chosen
    assert choose_remote(b"remote.a.url\nA\0", upstream) == "A"
    assert choose_remote(b"", upstream) == ""


@pytest.mark.parametrize(
    ("address", "clean"),
    [
        ("https://github.com/team/vision.git", "https://github.com/team/vision.git"),
        ("https://ada:secret@github.com/team/vision.git", "https://github.com/team/vision.git"),
        ("https://secret@github.com/team/vision", "https://github.com/team/vision"),
        ("https://a:b@c@github.com/x?token=secret#secret", "https://github.com/x"),
        ("https://host/x?private_token=secret", "https://host/x"),
        ("git@github.com:team/vision.git", "git@github.com:team/vision.git"),
        ("secret@github.com:team/vision.git", "github.com:team/vision.git"),
        ("ssh://git@host:22/team/vision", "ssh://git@host:22/team/vision"),
        ("ssh://ada:secret@host/team/vision", "ssh://host/team/vision"),
        ("codecommit::https://ada:secret@host/x", "codecommit::https://host/x"),
        ("https://host/ghp_16C7e42F292c6912E7710c838347Ae178B4a/x", "https://host/***/x"),
        ("/srv/git/vision.git", "/srv/git/vision.git"),
        ("../vision", "../vision"),
        ("", ""),
    ],
)
def test_a_remote_is_recorded_without_credentials(address: str, clean: str) -> None:
    assert clean_remote(address) == clean


# -- the patch


def section(path: str, *lines: str, quoted: bool = False) -> bytes:
    names = f'"a/{path}" "b/{path}"' if quoted else f"a/{path} b/{path}"
    text = "".join(f"{line}\n" for line in lines)
    return f"diff --git {names}\nindex 1..2 100644\n--- a/{path}\n+++ b/{path}\n@@ -1 +1 @@\n{text}".encode()


def patch_of(tmp_path: Path, *sections: bytes, is_whole: bool = True) -> bytes:
    return read_patch(b"".join(sections), str(tmp_path), str(tmp_path), is_whole=is_whole).encode() or b""


@pytest.mark.parametrize(
    ("header", "path"),
    [
        (b"diff --git a/x b/x", b"x"),
        (b"diff --git a/x b/y.py b/x b/y.py", b"x b/y.py"),
        (b'diff --git "a/new\\nline" "b/new\\nline"', b"new\nline"),
        (b'diff --git "a/\\303\\274\\"" "b/\\303\\274\\""', 'ü"'.encode()),
        (b"diff --git a/x b/y", None),
        (b"diff --git ", None),
    ],
)
def test_the_path_of_a_part_of_a_patch_is_read(header: bytes, path: bytes | None) -> None:
    assert path_of(header + b"\nindex 1..2\n") == path


@pytest.mark.parametrize("path", [".env", "a/.env.local", "keys/id_rsa", ".aws/config", "x/server.pem"])
def test_files_that_hold_secrets_are_left_out_and_named(tmp_path: Path, path: str) -> None:
    kept = section("train.py", "+lr = 2")
    assert patch_of(tmp_path, section(path, "+A=planted"), kept) == (
        f"# left out, being ignored or likely to hold secrets: {path}\n".encode() + kept
    )


def test_ignored_files_are_left_out(tmp_path: Path) -> None:
    (tmp_path / ".replicateignore").write_text("private/\n*.csv\n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / ".replicateignore").write_text("!kept.csv\n")
    parts = {path: section(path, "+x") for path in ("private/a", "sub/b.csv", "sub/kept.csv", "c.csv", "d.py")}
    found = patch_of(tmp_path, *parts.values())
    assert found == (
        b"# left out, being ignored or likely to hold secrets: private/a, sub/b.csv, c.csv\n"
        + parts["sub/kept.csv"]
        + parts["d.py"]
    )


def test_ignore_files_hold_for_the_project_only(tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / ".replicateignore").write_text("*.csv\n")
    inside, outside = section("project/a.csv", "+x"), section("a.csv", "+x")
    found = read_patch(inside + outside, str(tmp_path / "project"), str(tmp_path), is_whole=True)
    assert (found.secret, found.data) == ((b"project/a.csv",), outside)


def test_lines_that_look_like_secrets_are_masked_and_counted(tmp_path: Path) -> None:
    key = "Q" * 64
    found = patch_of(tmp_path, section("a.py", "-api_key = 'planted'", "+lr = 2", f" {key}", "+url=https://u:p@h/"))
    assert found == b"# masked with ***, as they may hold secrets: lines: 3\n" + section(
        "a.py", "-api_key = '***'", "+lr = 2", " ***", "+url=https://***@h/"
    )


def test_a_part_that_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    assert patch_of(tmp_path, b"diff --git a/x b/y\n+planted\n") == (
        b"# left out, being ignored or likely to hold secrets: ?\n"
    )


def test_a_large_patch_is_cut_at_a_file_and_says_so(worktree: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (worktree / name).write_text(f"{name} {'x' * 70}\n" * (MAX_PATCH_BYTES // 120))
    git(worktree, "add", "-A")
    found = facts(worktree)
    assert found.patch is not None
    note, _, rest = found.patch.partition(b"\n")
    assert note == b"# cut: at most 1,048,576 bytes are kept, and only whole files"
    assert rest.count(b"diff --git ") == 1
    assert rest.endswith(b"+a.txt " + b"x" * 70 + b"\n")
    assert len(found.patch) <= MAX_PATCH_BYTES


def test_bytes_that_are_no_text_stay_as_they_are(tmp_path: Path) -> None:
    part = section("latin.txt").replace(b"@@ -1 +1 @@\n", b"@@ -1 +1 @@\n+\xff\xfe caf\xe9\r\n")
    assert patch_of(tmp_path, part) == part


def test_names_with_odd_bytes_are_found(worktree: Path, make: Callable[[bytes], None]) -> None:
    for name in (b"new\nline", b"caf\xe9", b'quo"te', b"a b"):
        make(os.path.join(os.fsencode(worktree), name))
    git(worktree, "add", "-A")
    found = facts(worktree)
    assert found.patch is not None
    assert found.patch.count(b"diff --git ") == 4
    assert not found.patch.startswith(b"#")


@pytest.fixture
def make() -> Callable[[bytes], None]:
    """Write a file by the bytes of its path."""

    def write(path: bytes) -> None:
        with open(path, "wb") as file:
            file.write(b"x\n")

    return write

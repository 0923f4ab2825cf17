"""The state of the Git worktree that a project lies in: commit, branch, remote, and what is in no commit.

`git` is asked by three processes at once, beside the first save, and given 5 s; without it, or without its answer,
there is less. No hook, pager, prompt, external diff or network is involved, and no lock is taken.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from replicate import config
from replicate.capture.background import Background
from replicate.capture.patch import MAX_PATCH_BYTES, Patch, read_patch
from replicate.masking import mask_value

TIMEOUT_S = 5
"""How many seconds are spent on waiting for other programs, in all."""
_STATUS_BYTES = 4 << 20
_OPTIONS = ("--no-pager", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-c", "core.quotePath=false")
_STATUS = ("status", "--porcelain=v2", "--branch", "-z", "--untracked-files=no", "--ignore-submodules=dirty")
_REMOTES = ("config", "-z", "--get-regexp", r"^remote\..*\.url$")
_DIFF = (
    *("diff", "--no-ext-diff", "--no-textconv", "--no-color", "--no-renames", "--no-relative", "--submodule=short"),
    *("--ignore-submodules=dirty", "--src-prefix=a/", "--dst-prefix=b/", "-U3", "HEAD", "--"),
)
_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_SCP_LIKE = re.compile(r"(?:(?P<user>[^\s/@]{1,200})@)?(?P<rest>[\w.\-\[\]]{1,255}:(?!//).*)")
_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.\-]*://)(?:(?P<user>.*)@)?(?P<rest>[^@]*)")
_MAX_TEXT = 255


@dataclass(frozen=True, slots=True)
class GitFacts:
    """What git told: short facts, the changes that are in no commit, and what the user should hear."""

    summary: dict[str, Any] = field(default_factory=dict)
    patch: bytes | None = None
    notices: tuple[str, ...] = ()


def find_worktree(folder: str) -> str | None:
    """Return the Git worktree that a folder lies in, or None. A bare repository has none."""
    while True:
        if os.path.lexists(os.path.join(folder, ".git")):
            return folder
        above = os.path.dirname(folder)
        if above == folder:
            return None
        folder = above


class Git:
    """The three questions, asked when this is made.

    Args:
        root: The project's folder, which lies in `worktree`.
        worktree: The Git worktree.
        program: What `git` is called.
    """

    def __init__(self, root: str, worktree: str, program: str = "git") -> None:
        self._root, self._worktree = root, worktree
        environment = config.git_environment()
        ask = (program, "-C", worktree, *_OPTIONS)
        self._status, self._remotes, self._diff = (
            Background([*ask, *question], environment) for question in (_STATUS, _REMOTES, _DIFF)
        )

    def collect(self, remaining: Callable[[], float]) -> GitFacts:
        """Return the answers. `remaining` says how many seconds may be spent on waiting."""
        answer = self._status.read(_STATUS_BYTES, remaining)
        summary = parse_status(answer.data) if answer.is_whole or answer.is_cut else {}
        if not summary:
            self.kill()
            return GitFacts(notices=_late("the commit is") if answer.timed_out else ())
        upstream = str(summary.pop("upstream", ""))
        remotes = self._remotes.read(_STATUS_BYTES, remaining)
        remote = choose_remote(remotes.data, upstream) if remotes.is_whole else ""
        if remote:
            summary["remote"] = clean_remote(remote)[: 2 * _MAX_TEXT]
        if not summary["dirty"] or "commit" not in summary:
            self._diff.kill()
            return GitFacts(summary)
        diff = self._diff.read(MAX_PATCH_BYTES, remaining)
        if diff.timed_out:
            return GitFacts(summary, notices=_late("the changes since the commit are"))
        patch = read_patch(diff.data, self._root, self._worktree, is_whole=diff.is_whole) if diff.data else Patch()
        return GitFacts(summary, patch.encode())

    def kill(self) -> None:
        """Do not wait for the answers."""
        for one in (self._status, self._remotes, self._diff):
            one.kill()


def _late(what: str) -> tuple[str, ...]:
    return (f"git did not answer in {TIMEOUT_S} s: {what} not recorded",)


def parse_status(data: bytes) -> dict[str, Any]:
    """Return commit, branch, dirty and upstream from `git status --porcelain=v2 --branch -z`; {} if it is none."""
    head: dict[str, str] = {}
    dirty = False
    for field_ in data.decode("utf-8", "backslashreplace").split("\0"):
        if field_.startswith("# "):
            name, _, value = field_[2:].partition(" ")
            head[name] = value
        elif field_[:2] in ("1 ", "2 ", "u "):
            dirty = True
    commit = head.get("branch.oid", "")
    if commit != "(initial)" and not _COMMIT.fullmatch(commit):
        return {}
    found: dict[str, Any] = {"dirty": dirty} if commit == "(initial)" else {"dirty": dirty, "commit": commit}
    branch = head.get("branch.head", "(detached)")
    if branch != "(detached)":
        found["branch"] = branch[:_MAX_TEXT]
    if "branch.upstream" in head:
        found["upstream"] = head["branch.upstream"]
    return found


def choose_remote(data: bytes, upstream: str) -> str:
    """Return the address of the remote that the branch follows, else of `origin`, else of the first; "" of none."""
    addresses: dict[str, str] = {}
    for entry in data.decode("utf-8", "backslashreplace").split("\0"):
        key, newline, value = entry.partition("\n")
        if newline:
            addresses.setdefault(key.removeprefix("remote.").removesuffix(".url"), value)
    followed = [name for name in addresses if upstream.startswith(f"{name}/")]
    for name in (*sorted(followed, key=len, reverse=True), "origin", *addresses):
        if name in addresses:
            return addresses[name]
    return ""


def clean_remote(address: str) -> str:
    """Return a remote's address without user, password, token, query and fragment; the user `git` stays."""
    helper, two_colons, rest = address.partition("::")
    if two_colons and re.fullmatch(r"[\w-]+", helper):
        return f"{helper}::{clean_remote(rest)}"
    url = _URL.fullmatch(address)
    if url:
        user = "git@" if url["user"] == "git" else ""
        return mask_value(url["scheme"] + user + re.split(r"[?#]", url["rest"], maxsplit=1)[0])
    scp = _SCP_LIKE.fullmatch(address)
    if scp:
        return mask_value(("git@" if scp["user"] == "git" else "") + scp["rest"])
    return mask_value(address)

"""Reading back what was recorded of a process beside the session record: the tree `environment`. Floor 7. SPEC §9.2."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from replicate.refs import StartRecord
from replicate.repository import Repository


@dataclass(frozen=True, slots=True)
class Package:
    """An installed distribution; `is_imported` tells whether it was in use when `init()` was called."""

    name: str
    version: str
    is_imported: bool


class Environment:
    """Packages, machine and changes of one session. What was not recorded, or cannot be understood, is empty.

    Args:
        repository: The store.
        start: The session's start, None for nothing.
    """

    def __init__(self, repository: Repository, start: StartRecord | None) -> None:
        self._repository = repository
        self._start = start

    def read(self, name: bytes) -> bytes:
        """Return a file of the tree, b"" when there is none. Raises as reading any object does."""
        start = self._start
        if start is None or start.environment is None or start.locator is None:
            return b""
        from replicate.worktree.trees import find_entry

        objects = self._repository.objects(start.locator)
        entry = find_entry(objects, start.environment, name)
        return objects.read(entry.object_id, claimed_bytes=entry.size_bytes) if entry else b""

    @cached_property
    def packages(self) -> list[Package]:
        """The installed distributions by name."""
        listed = self._json(b"packages.json")
        found = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
        return [Package(str(one.get("name")), str(one.get("version")), one.get("imported") is True) for one in found]

    @cached_property
    def machine(self) -> dict[str, Any]:
        """Platform, processor, memory, GPUs."""
        found = self._json(b"machine.json")
        return found if isinstance(found, dict) else {}

    @cached_property
    def python(self) -> dict[str, Any]:
        """Version, implementation, executable."""
        found = self._json(b"python.json")
        return found if isinstance(found, dict) else {}

    @cached_property
    def patch(self) -> bytes:
        """The changes that were in no Git commit, as `git diff` prints them."""
        return self.read(b"git.patch")

    def _json(self, name: bytes) -> Any:
        try:
            return json.loads(self.read(name) or b"null")
        except (ValueError, RecursionError):  # a store is untrusted
            return None

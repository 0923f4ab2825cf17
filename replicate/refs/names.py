"""The keys of ref records and catalogs. SPEC §9.1, §10. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from replicate.errors import CorruptionError
from replicate.objects.ids import ObjectID

NO_SUBJECT = "-"
_KEY = re.compile(
    r"refs/(?P<aa>[0-9a-f]{2})/(?P<experiment>[0-9a-f]{64})~(?P<seq>[0-9a-f]{8})~(?P<session>[0-9a-f]{16})"
    r"~(?P<kind>[a-z])~(?P<subject>[0-9a-f]{64}|-)~(?P<hash>[0-9a-f]{32})",
    re.ASCII,
)
_CATALOG = re.compile(r"cat/(?:h|f~(?P<aa>[0-9a-f]{2}))~(?P<hash>[0-9a-f]{32})", re.ASCII)
_SESSION = re.compile(r"[0-9a-f]{16}", re.ASCII)


def is_session(text: object) -> bool:
    """Tell whether something is text that names a session: 16 hex digits."""
    return isinstance(text, str) and _SESSION.fullmatch(text) is not None


@dataclass(frozen=True)
class RecordName:
    """A ref record's key, taken apart. `subject` is an id in hex or `-`; `record_hash` 32 hex digits."""

    experiment: ObjectID
    seq: int
    session: str
    kind: str
    subject: str
    record_hash: str

    @cached_property
    def key(self) -> str:
        """The storage key."""
        experiment = self.experiment.hex()
        return (
            f"refs/{experiment[:2]}/{experiment}~{self.seq:08x}~{self.session}~{self.kind}"
            f"~{self.subject}~{self.record_hash}"
        )

    @classmethod
    def parse(cls, key: str) -> RecordName:
        """Take a key apart; `CorruptionError` when it is not one of a ref record."""
        match = _KEY.fullmatch(key)
        if match is None or match["aa"] != match["experiment"][:2]:
            raise CorruptionError(f"{key} is not the key of a ref record", where=key)
        return cls(
            ObjectID.parse(match["experiment"]),
            int(match["seq"], 16),
            match["session"],
            match["kind"],
            match["subject"],
            match["hash"],
        )


def experiment_prefix(experiment: ObjectID) -> str:
    """Return the prefix of every record of an experiment."""
    return f"refs/{experiment.hex()[:2]}/{experiment.hex()}~"


@dataclass(frozen=True, slots=True)
class CatalogName:
    """A catalog's key, taken apart. `shard` is the two digits that its experiments begin with; None: heads."""

    shard: str | None
    catalog_hash: str

    @property
    def key(self) -> str:
        """The storage key."""
        return f"cat/h~{self.catalog_hash}" if self.shard is None else f"cat/f~{self.shard}~{self.catalog_hash}"

    @classmethod
    def parse(cls, key: str) -> CatalogName:
        """Take a key apart; `CorruptionError` when it is not one of a catalog."""
        match = _CATALOG.fullmatch(key)
        if match is None:
            raise CorruptionError(f"{key} is not the key of a catalog", where=key)
        return cls(match["aa"], match["hash"])

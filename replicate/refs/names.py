"""The keys of ref records. SPEC §9.1. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from replicate.errors import CorruptionError
from replicate.objects.ids import ObjectID

NO_SUBJECT = "-"
_KEY = re.compile(
    r"refs/(?P<aa>[0-9a-f]{2})/(?P<experiment>[0-9a-f]{64})~(?P<seq>[0-9a-f]{8})~(?P<session>[0-9a-f]{16})"
    r"~(?P<kind>[a-z])~(?P<subject>[0-9a-f]{64}|-)~(?P<hash>[0-9a-f]{32})",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class RecordName:
    """A ref record's key, taken apart. `subject` is an id in hex or `-`; `record_hash` 32 hex digits."""

    experiment: ObjectID
    seq: int
    session: str
    kind: str
    subject: str
    record_hash: str

    @property
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

"""Where a frame lies. SPEC §6, §8. Apart from packs, as ref records name frames and a listing opens none."""

from __future__ import annotations

from dataclasses import dataclass

from replicate.errors import CorruptionError
from replicate.objects.ids import ID_BYTES, ObjectID

MAX_PACK_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class FrameRef:
    """A frame by its place alone: pack, offset and length in bytes, header included."""

    pack: ObjectID
    offset: int
    length: int

    def encode(self) -> list[object]:
        """Return the array of SPEC §8."""
        return [bytes(self.pack), self.offset, self.length]

    @classmethod
    def decode(cls, value: object, where: str, holder: ObjectID | None = None) -> FrameRef:
        """Read the array of SPEC §8; `CorruptionError` for anything else. An empty pack id stands for `holder`."""
        if (
            isinstance(value, list)
            and len(value) == 3
            and isinstance(value[0], bytes)
            and all(type(item) is int and 0 <= item <= MAX_PACK_BYTES for item in value[1:])
        ):
            pack = value[0] or holder or b""
            if len(pack) == ID_BYTES:
                return cls(ObjectID(pack), value[1], value[2])
        raise CorruptionError(f"{where} is damaged: not [pack, offset, length]", where=where)

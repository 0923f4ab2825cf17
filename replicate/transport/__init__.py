"""Floor 1: keys and bytes. Five verbs, and nothing about objects. SPEC §5, §12."""

from replicate.transport.local import LocalTransport
from replicate.transport.memory import MemoryTransport
from replicate.transport.protocol import (
    KeyInfo,
    Range,
    ReadsAhead,
    Transport,
    is_url,
    prefetch,
    read_sound,
    validate_key,
)

__all__ = [
    "KeyInfo",
    "LocalTransport",
    "MemoryTransport",
    "Range",
    "ReadsAhead",
    "Transport",
    "is_url",
    "prefetch",
    "read_sound",
    "validate_key",
]

"""What a seed makes a network and a server do: which fault happens to which request."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

from tests.servers.proxy import Fault, What

Draw = Callable[[random.Random], list[Fault]]


def refusal(status: int, code: str) -> Fault:
    """Return S3's answer that a request is refused."""
    text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>So it is.</Message></Error>"
    return Fault(status, body=text.encode())


def _burst(*kinds: What | int) -> Draw:
    return lambda chance: [Fault(chance.choice(kinds)) for _ in range(chance.randrange(1, 9))]


def _refused(status: int, code: str) -> Draw:
    return lambda chance: [refusal(status, code)] * chance.randrange(1, 5)


KINDS: dict[str, Draw] = {
    "lost replies": _burst("lose the reply"),
    "resets": _burst("reset", "reset in the upload"),
    "bursts": _burst(500, 502, 503, 504, 429),
    "slow down": _refused(503, "SlowDown"),
    "stall": lambda chance: [Fault("stall")],
    "truncated": _burst("truncate", "truncate the head"),
    "restart": lambda chance: [Fault("go down", seconds=chance.random() / 10)],
    "expired": _refused(400, "ExpiredToken"),
    "denied": _refused(403, "AccessDenied"),
    "full": _refused(507, "StorageFull"),
}
PASSING = ("lost replies", "resets", "bursts", "slow down", "truncated", "restart")


class Storm:
    """Draws a fault for each request, or none, for as long as it lasts. Called in one thread.

    Args:
        seed: Of everything drawn.
        kinds: Which faults there are.
        longest: How many requests a fault happens to, at most.

    Attributes:
        seen: How often each kind happened.
    """

    def __init__(self, seed: int, kinds: tuple[str, ...] = tuple(KINDS), longest: int = 8) -> None:
        self._chance = random.Random(f"storm {seed}")
        self._rate = self._chance.choice((0.02, 0.05, 0.1))
        self._kinds = kinds
        self._longest = longest
        self._next: list[Fault] = []
        self.seen: Counter[str] = Counter()

    def __call__(self, request: str) -> Fault | None:
        """Return what happens to the next request."""
        if not self._next and self._chance.random() < self._rate:
            kind = self._chance.choice(self._kinds)
            self.seen[kind] += 1
            self._next = KINDS[kind](self._chance)[: self._longest]
        return self._next.pop() if self._next else None

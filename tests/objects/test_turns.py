"""The pieces of one blob: read and written side by side, hashed in order, and given up as a whole."""

from __future__ import annotations

import pytest

from replicate.objects.turns import Turns


def test_nobody_writes_once_the_blob_was_given_up() -> None:
    turns = Turns()
    written: list[int] = []
    turns.act(lambda: written.append(1))
    turns.stop(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        turns.act(lambda: written.append(2))
    with pytest.raises(KeyboardInterrupt):
        turns.wait(0)
    assert written == [1]

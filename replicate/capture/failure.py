"""What ended a session, as text: an exception's type and message, and where it came from, without secrets."""

from __future__ import annotations

from typing import Any

from replicate.capture.command import storable
from replicate.masking import mask_text

_MAX_MESSAGE = 2_000
_MAX_TRACEBACK_BYTES = 8 << 10
_MAX_FRAMES = 30
_LONGEST_READ = 64 << 10


def describe(exception: BaseException) -> dict[str, Any]:
    """Return type and message of an exception, and the end of its traceback as Python prints it, at most 8 KiB.

    What ends a process on purpose, `SystemExit` or Ctrl-C, has no traceback.
    """
    found = {"type": type(exception).__name__, "message": _message(exception)}
    on_purpose = isinstance(exception, SystemExit | KeyboardInterrupt)
    trace = "" if on_purpose or exception.__traceback__ is None else _traceback(exception)
    return found | ({"traceback": trace} if trace else {})


def _message(exception: BaseException) -> str:
    try:
        return mask_text(storable(str(exception)[:_LONGEST_READ]))[:_MAX_MESSAGE]
    except Exception:  # noqa: BLE001 - it is the user's code, and the end is to be recorded
        return ""


def _traceback(exception: BaseException) -> str:
    import traceback  # only what failed needs it

    try:
        lines = traceback.format_exception(exception, limit=-_MAX_FRAMES)
    except Exception:  # noqa: BLE001 - likewise: an exception may not even be printable
        return ""
    text = mask_text(storable("".join(line[:_LONGEST_READ] for line in lines)[-_LONGEST_READ:]))
    data = text.encode()
    if len(data) <= _MAX_TRACEBACK_BYTES:
        return text
    return "…\n" + data[-_MAX_TRACEBACK_BYTES + 4 :].decode("utf-8", "ignore").partition("\n")[2]

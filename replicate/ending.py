"""How this process ends: told to whoever asks at exit. Floor 0.

`sys.excepthook` and `sys.exit` are wrapped, and what was there before is called. Python tells nobody of a bare
`raise SystemExit(3)`: there the code is not known.
"""

from __future__ import annotations

import contextlib
import functools
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any, NoReturn

_INTERRUPTED = 130


class Ending:
    """Watches how this process ends, once `watch` was called."""

    def __init__(self) -> None:
        self.exception: BaseException | None = None
        self._exit: SystemExit | None = None
        self._main: FrameType | None = None
        self._is_watching = False

    def watch(self) -> None:
        """Begin to watch; a second call does nothing. To be called while the program runs, not at its exit."""
        if self._is_watching:
            return
        self._is_watching = True
        self._main = _outermost_frame()
        self._wrap_excepthook()
        self._wrap_exit()

    def _wrap_excepthook(self) -> None:
        previous = sys.excepthook

        def remember(kind: type[BaseException], value: BaseException, trace: TracebackType | None) -> None:
            if not hasattr(sys, "ps1"):  # an error at an interactive prompt ends nothing
                self.exception = value
            previous(kind, value, trace)

        sys.excepthook = remember

    def _wrap_exit(self) -> None:
        previous = sys.exit

        @functools.wraps(previous)  # as `sys.exit` it can be pickled by its name
        def remember(*arguments: Any) -> NoReturn:
            if threading.current_thread() is threading.main_thread():  # elsewhere it ends the thread only
                self._exit = SystemExit(*arguments)
            previous(*arguments)

        sys.exit = remember

    def told(self) -> tuple[BaseException | None, int | None]:
        """Return the exception that ends this process, if one does, and its exit code, if it is known.

        A `SystemExit` counts where its code is not 0, and only if nobody caught it: the program must not have run to
        its end.
        """
        if self.exception is not None:
            return self.exception, _INTERRUPTED if isinstance(self.exception, KeyboardInterrupt) else 1
        if self._main is None or hasattr(sys, "ps1"):
            return None, None
        if _ran_to_its_end(self._main):
            return None, 0
        if self._exit is None:
            return None, None
        code = exit_code(self._exit)
        return (self._exit if code else None), code


class Interrupts:
    """How often Ctrl-C was pressed while the process ends."""

    def __init__(self, count: int = 0) -> None:
        self.count = count

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        """Count Ctrl-C inside instead of raising KeyboardInterrupt: what is written at the exit is short, and counts.

        Does nothing where the program has its own handler of SIGINT.
        """
        is_ours = threading.current_thread() is threading.main_thread()
        if not is_ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            yield
            return
        signal.signal(signal.SIGINT, self._count)
        try:
            yield
        finally:
            if signal.getsignal(signal.SIGINT) == self._count:
                signal.signal(signal.SIGINT, signal.default_int_handler)

    def _count(self, number: int, frame: FrameType | None) -> None:
        self.count += 1


def exit_code(exception: SystemExit) -> int:
    """Return the code that a process ends with by this: 0 for None, 1 for what is no number, else its last 8 bits."""
    if exception.code is None:
        return 0
    return exception.code & 0xFF if isinstance(exception.code, int) else 1


def _outermost_frame() -> FrameType | None:
    """Return the frame in which the main thread began: the script's, or that of what runs it."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame is not None and frame.f_back is not None:
        frame = frame.f_back
    return frame


def _ran_to_its_end(frame: FrameType) -> bool:
    """Tell whether a frame that is over returned; one that an exception left stopped at another instruction."""
    import opcode

    return opcode.opname[frame.f_code.co_code[frame.f_lasti]].startswith("RETURN")

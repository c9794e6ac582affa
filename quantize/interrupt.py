"""Ctrl-C during what must not be cut: libraries in C++ end the whole process if an exception crosses them."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_AGAIN_S = 0.05


def interrupt_outside_imports() -> None:
    """Let Ctrl-C wait for the end of an import: torch and onnx import Python modules while C++ initialises them."""
    signal.signal(signal.SIGINT, _interrupt)


def _interrupt(_number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, or come again soon."""
    if not _is_importing(frame):
        raise KeyboardInterrupt
    # To the main thread, whose system call it ends, too.
    again = threading.Timer(_AGAIN_S, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT))
    again.daemon = True
    again.start()


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib."):
            return True
        frame = frame.f_back
    return False


@contextlib.contextmanager
def interrupt_afterwards() -> Iterator[None]:
    """Raise KeyboardInterrupt for the first Ctrl-C at the end of the block; a second one ends the process at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came = False
    before = signal.getsignal(signal.SIGINT)

    def remember(_number: int, _frame: FrameType | None) -> None:
        nonlocal came
        came = True
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    signal.signal(signal.SIGINT, remember)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        raise KeyboardInterrupt

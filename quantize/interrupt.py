"""Ctrl-C during work that must not be cut: torch's tracer ends the whole process if an exception crosses it."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


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

"""Facts that another process brings about, polled with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

READY_TIMEOUT_S = 300.0  # the gateway itself waits for LiteLLM as long


def wait_for(is_so: Callable[[], bool], what: str, log: Path) -> None:
    """Poll a fact; show the end of the log if it does not come true in time."""
    deadline_s = time.monotonic() + READY_TIMEOUT_S
    while not is_so():
        assert time.monotonic() < deadline_s, f"not in time: {what}\n{log.read_text('utf-8')[-6000:]}"
        time.sleep(0.1)

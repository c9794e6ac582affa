"""The order to stop, and the ways to give it: a failure, a restart, the end of safe mode."""

from __future__ import annotations

import asyncio
import os
import time

from appliance.errors import ConflictError
from appliance.home import Home
from appliance.host.files import write_atomically

_RESTART_PAUSE_S = 61.0  # five starts in 300 seconds are what lantern.service allows


class Stopping:
    """The order to stop, with the failure that gave it, if there was one; owned by the event loop."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.failure: BaseException | None = None
        self.is_restart = False

    def is_set(self) -> bool:
        """Tell if the server is to stop."""
        return self._event.is_set()

    def set(self) -> None:
        """Begin an orderly stop."""
        self._event.set()

    def restart(self) -> None:
        """Begin an orderly stop, after which the process starts again."""
        self.is_restart = True
        self._event.set()

    def fail(self, err: BaseException) -> None:
        """Stop because of an error; the first one counts."""
        self.failure = self.failure or err
        self._event.set()

    async def wait(self) -> None:
        """Wait for the order."""
        await self._event.wait()


async def leave_safe_mode(home: Home, stopping: Stopping) -> None:
    """End safe mode once running requests are answered; lantern-recover.service looks for the file."""
    await asyncio.to_thread(write_atomically, home.leave_safe_mode, b"")
    stopping.set()


def restart(stopping: Stopping, started_s: float, *, is_safe_mode: bool) -> None:
    """Begin a restart, unless so many of them would be taken for failures."""
    if is_safe_mode:
        raise ConflictError("This device is in safe mode; leave it, which starts the device again.")
    is_managed = "NOTIFY_SOCKET" in os.environ
    if is_managed and time.monotonic() - started_s < _RESTART_PAUSE_S:
        raise ConflictError(f"This device started less than {_RESTART_PAUSE_S:.0f} seconds ago; try again in a minute.")
    stopping.restart()

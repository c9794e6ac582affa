"""A device in a process of its own, which can restart, be killed, and be started again at the same port."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bundle.workshop import install_untried
from tests.conftest import RunningServer
from tests.install.tiny_bundles import TinyDevice
from tests.server.admin.clients import KEY
from tests.server.console.aside import aside


class Device:
    """A process that serves a home at one port."""

    def __init__(self, home: Path, *arguments: str, key: str = KEY) -> None:
        self._environment = {**os.environ, "LANTERN_HOME": str(home), "LANTERN_API_KEY": key}
        self._environment.pop("NOTIFY_SOCKET", None)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = int(free.getsockname()[1])
        self._command = [sys.executable, "-m", "appliance", "serve", "--port", str(self.port), *arguments]
        self._process: subprocess.Popen[str] | None = None

    @property
    def server(self) -> RunningServer:
        return RunningServer(f"http://127.0.0.1:{self.port}/v1", None, lambda call: call())  # type: ignore[arg-type]

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, and wait until it serves."""
        self._process = process = subprocess.Popen(
            self._command, stdout=subprocess.PIPE, text=True, env=self._environment
        )
        assert process.stdout is not None
        next(line for line in process.stdout if "Base URL" in line)

    def kill(self) -> None:
        """Take its power away."""
        assert self._process is not None
        self._process.kill()
        self._process.communicate(timeout=30)

    def stop(self) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.communicate(timeout=30)


@contextmanager
def served_by_a_process(root: Path) -> Iterator[RunningServer]:
    """A device with a tiny model, in a process of its own."""

    def make() -> Device:
        tiny = TinyDevice(root)
        install_untried(tiny.store, tiny.make())
        return Device(root / "home")

    device = aside(make)
    device.start()
    try:
        yield device.server
    finally:
        device.stop()

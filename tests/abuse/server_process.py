"""The real command in a process of its own, so that load and server do not share an interpreter."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from appliance.home import Home


@dataclass(frozen=True, slots=True)
class ServerProcess:
    """A running `lantern serve`."""

    root_url: str
    pid: int

    @property
    def port(self) -> int:
        return int(self.root_url.rsplit(":", 1)[1])


@contextlib.contextmanager
def server_process(home: Home, *flags: str, **environment: str) -> Iterator[ServerProcess]:
    """Serve on any free port until the block is left; a stop has to end with exit status 0."""
    process = subprocess.Popen(
        [sys.executable, "-m", "appliance", "serve", "--port", "0", *flags],
        env={**os.environ, "LANTERN_HOME": str(home.root), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    with process.stdout as printed:
        try:
            found = next(m for line in printed if (m := re.search(r"Base URL: (http\S+)/v1", line)))
            yield ServerProcess(found[1], process.pid)
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        finally:
            process.kill()
            process.wait()

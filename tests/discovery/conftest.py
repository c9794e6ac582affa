"""The other resolvers that a device has to be found by, each on a machine of a test network."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lan import Lan, ipv4_lan, lan

__all__ = ["ipv4_lan", "lan"]

_BUS = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><listen>unix:path={}</listen><auth>EXTERNAL</auth><policy context="default">
<allow send_destination="*"/><allow receive_sender="*"/><allow own="*"/><allow user="*"/></policy></busconfig>
"""
_START_AVAHI = """\
mkdir -p /run/avahi-daemon && mount -t tmpfs none /run/avahi-daemon &&
exec avahi-daemon --no-chroot --no-drop-root --no-rlimits --no-proc-title --file """


class Avahi:
    """An avahi daemon of its own on machine `b`, with a bus of its own, so that the machine's is left alone."""

    def __init__(self, namespace: str, folder: Path) -> None:
        (folder / "bus.conf").write_text(_BUS.format(folder / "bus"), encoding="utf-8")
        (folder / "avahi.conf").write_text("[server]\nallow-interfaces=eth0\n", encoding="utf-8")
        self._inside = ["ip", "netns", "exec", namespace]
        self._environment = os.environ | {"DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={folder / 'bus'}"}
        bus = ["dbus-daemon", f"--config-file={folder / 'bus.conf'}", "--nofork", "--print-address"]
        self._bus = subprocess.Popen(bus, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self._bus.stdout is not None
        self._bus.stdout.readline()
        daemon = [*self._inside, "unshare", "--mount", "sh", "-c", f"{_START_AVAHI}{folder / 'avahi.conf'}"]
        self._daemon = subprocess.Popen(daemon, stderr=subprocess.PIPE, text=True, env=self._environment)
        assert self._daemon.stderr is not None
        if not any("startup complete" in line for line in self._daemon.stderr):
            self.close()
            pytest.skip("avahi-daemon does not start here")

    def resolve(self, service_type: str) -> str:
        """What `avahi-browse` tells of every instance, as semicolon-separated lines."""
        browse = [*self._inside, "avahi-browse", "--resolve", "--parsable", "--terminate", service_type]
        return subprocess.run(browse, capture_output=True, text=True, check=True, env=self._environment).stdout

    def close(self) -> None:
        """End both daemons."""
        for process, pipe in ((self._daemon, self._daemon.stderr), (self._bus, self._bus.stdout)):
            process.terminate()
            process.wait()
            if pipe is not None:
                pipe.close()


@pytest.fixture
def avahi(ipv4_lan: Lan) -> Iterator[Avahi]:
    """The other resolver, on machine `b`."""
    if shutil.which("avahi-browse") is None or shutil.which("dbus-daemon") is None:
        pytest.skip("avahi-browse and dbus-daemon are not installed")
    with tempfile.TemporaryDirectory() as folder:
        running = Avahi(ipv4_lan.b, Path(folder))
        yield running
        running.close()

"""Other people's resolvers on one machine of a test network, with a bus of their own: the host's are left alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.debian import unpacked

_BUS = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><listen>unix:path={}</listen><auth>EXTERNAL</auth><policy context="default">
<allow send_destination="*"/><allow receive_sender="*"/><allow own="*"/><allow user="*"/></policy></busconfig>
"""
_START_AVAHI = """\
mkdir -p /run/avahi-daemon && mount -t tmpfs none /run/avahi-daemon &&
exec avahi-daemon --no-chroot --no-drop-root --no-rlimits --no-proc-title --file {folder}/avahi.conf"""
_AVAHI_CONFIGURATION = "[server]\nallow-interfaces=eth0\n"
# The user that the daemon becomes has to be one that the bus knows too: any will do that every Debian has.
_START_RESOLVED = """\
mkdir -p /run/systemd/resolve && mount -t tmpfs -o mode=755,uid=1,gid=1 none /run/systemd/resolve &&
{{ grep -v ^systemd-resolve: /etc/passwd; echo systemd-resolve:x:1:1::/:/bin/false; }} > {folder}/passwd &&
{{ grep -v ^systemd-resolve: /etc/group; echo systemd-resolve:x:1:; }} > {folder}/group &&
mount --bind {folder}/passwd /etc/passwd && mount --bind {folder}/group /etc/group &&
mount -t tmpfs none /etc/systemd && cp {folder}/resolved.conf /etc/systemd/ &&
exec env SYSTEMD_LOG_TARGET=console SYSTEMD_LOG_LEVEL=info {daemon}"""
_RESOLVED_CONFIGURATION = "[Resolve]\nMulticastDNS=yes\nDNSStubListener=no\nLLMNR=no\n"
_ANSWER_TIMEOUT_S = 60.0


class Bus:
    """A D-Bus daemon of a test's own."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "bus"
        folder.chmod(0o755)  # the daemons give up being root
        (folder / "bus.conf").write_text(_BUS.format(self.path), encoding="utf-8")
        command = ["dbus-daemon", f"--config-file={folder / 'bus.conf'}", "--nofork", "--print-address"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self._process.stdout is not None
        self._process.stdout.readline()
        self.environment = os.environ | {"DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={self.path}"}

    def close(self) -> None:
        """End the daemon."""
        _end(self._process)


class Daemon:
    """A resolver's daemon in a namespace, with mounts of its own."""

    def __init__(self, namespace: str, bus: Bus, start: str, *, sign: str) -> None:
        self._inside = ["ip", "netns", "exec", namespace]
        self._bus = bus
        command = [*self._inside, "unshare", "--mount", "sh", "-c", start]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=bus.environment)
        assert self._process.stderr is not None
        if not any(sign in line for line in self._process.stderr):
            self.close()
            pytest.skip(f"the daemon does not start here: {start.splitlines()[-1]}")

    def ask(self, *command: str | Path, wanted: str = "") -> str:
        """The output of one of its commands once it succeeds and says what is wanted: each gives up by itself, soon."""
        asked = [*self._inside, *map(str, command)]
        deadline_s = time.monotonic() + _ANSWER_TIMEOUT_S
        while True:
            done = subprocess.run(
                asked, capture_output=True, text=True, check=False, timeout=_ANSWER_TIMEOUT_S, env=self._bus.environment
            )
            if done.returncode == 0 and wanted in done.stdout:
                return done.stdout
            assert time.monotonic() < deadline_s, done.stdout + done.stderr
            time.sleep(0.2)

    def close(self) -> None:
        """End the daemon."""
        _end(self._process)


class Avahi(Daemon):
    """The resolver of `.local` on most Linux desktops."""

    def __init__(self, namespace: str, bus: Bus, folder: Path, *, host_name: str = "") -> None:
        """`host_name` is the first part of the machine's own name, instead of this machine's."""
        own = f"host-name={host_name}\n" if host_name else ""
        (folder / "avahi.conf").write_text(_AVAHI_CONFIGURATION + own, encoding="utf-8")
        super().__init__(namespace, bus, _START_AVAHI.format(folder=folder), sign="startup complete")

    def resolve(self, service_type: str, address: str) -> str:
        """Return `avahi-browse`'s semicolon-separated lines of every instance, one of them at this address."""
        command = ["avahi-browse", "--resolve", "--parsable", "--terminate", service_type]
        return self.ask(*command, wanted=f";{address};")


class Resolved(Daemon):
    """systemd's resolver, if mDNS is switched on."""

    def __init__(self, namespace: str, bus: Bus, folder: Path) -> None:
        daemon, self._resolvectl = resolved_programs()
        (folder / "resolved.conf").write_text(_RESOLVED_CONFIGURATION, encoding="utf-8")
        super().__init__(
            namespace, bus, _START_RESOLVED.format(folder=folder, daemon=daemon), sign="Using system hostname"
        )
        self.ask(self._resolvectl, "mdns", "eth0", "yes")

    def host(self, name: str) -> str:
        """The addresses of a host name."""
        return self.ask(self._resolvectl, "query", name)

    def service(self, name: str, service_type: str) -> str:
        """Host, port, addresses and TXT strings of an instance."""
        return self.ask(self._resolvectl, "service", name, service_type, "local")

    def instances(self, service_type: str, instance: str) -> str:
        """The pointers of a type, one of them to a name that ends so."""
        return self.ask(self._resolvectl, "--type=PTR", "query", f"{service_type}.local", wanted=f".{instance}")


def resolved_programs() -> tuple[Path, Path]:
    """The daemon and `resolvectl`: installed, or unpacked from Debian's package where client tests are asked for.

    To install the package would make it the machine's own resolver.
    """
    daemon, command = Path("/lib/systemd/systemd-resolved"), shutil.which("resolvectl")
    if daemon.exists() and command:
        return daemon, Path(command)
    folder = unpacked("systemd-resolved")
    return folder / "lib/systemd/systemd-resolved", folder / "usr/bin/resolvectl"


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    process.wait()
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()

"""A local network for tests: network namespaces on a bridge, which carry real multicast."""

from __future__ import annotations

import itertools
import json
import os
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

_NODE = Path(__file__).with_name("lan_node.py")
_ROOT = Path(__file__).parents[2]
_LANTERN = """\
import argparse, sys
from appliance.cli import {0}
from appliance.errors import LanternError
parser = argparse.ArgumentParser()
{0}.add_arguments(parser)
try:
    code = {0}.run(parser.parse_args())
except LanternError as err:
    sys.stderr.write(err.message)
    code = err.exit_code
sys.exit(code)
"""
_COUNTER = itertools.count()

Facts = dict[str, Any]


def ip(*arguments: str) -> None:
    """Run `ip`; its complaint is the error."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


class Node:
    """A `lan_node.py` in a namespace; its lines are read with a deadline, and no thread."""

    def __init__(self, namespace: str, *arguments: str) -> None:
        command = ["ip", "netns", "exec", namespace, sys.executable, str(_NODE), *arguments]
        environment = os.environ | {"PYTHONPATH": str(_ROOT), "PYTHONWARNINGS": "error"}
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self._pending = b""

    def wait(self, fits: Callable[[Facts], bool], *, timeout_s: float = 10.0) -> Facts:
        """The first line from now on that fits."""
        deadline_s = time.monotonic() + timeout_s
        last: Facts | None = None
        with selectors.DefaultSelector() as selector:
            selector.register(self._stdout, selectors.EVENT_READ)
            while True:
                line, found, rest = self._pending.partition(b"\n")
                if found:
                    self._pending = rest
                    last = json.loads(line)
                    if fits(last):
                        return last
                    continue
                if not selector.select(max(0.0, deadline_s - time.monotonic())):
                    raise AssertionError(f"Nothing that fits within {timeout_s} s; the last line was {last}")
                chunk = os.read(self._stdout.fileno(), 65536)
                if not chunk:
                    raise AssertionError(f"The node ended; its last line was {last}")
                self._pending += chunk

    def event(self, name: str, *, timeout_s: float = 10.0) -> Facts:
        """The next line of this event."""
        return self.wait(lambda facts: facts["event"] == name, timeout_s=timeout_s)

    def devices(self, fits: Callable[[list[Facts]], bool], *, timeout_s: float = 10.0) -> list[Facts]:
        """The next list of devices that fits, of a node that watches."""
        found: list[Facts] = self.wait(lambda facts: fits(facts["devices"]), timeout_s=timeout_s)["devices"]
        return found

    def tell(self, line: str) -> None:
        """Send a command."""
        self._stdin.write(f"{line}\n".encode())
        self._stdin.flush()

    def close(self) -> None:
        """End the process, however it stands."""
        self._process.kill()
        self._process.wait()
        self._stdin.close()
        self._stdout.close()


class Lan:
    """Two machines, `a` and `b`, on one switch; no addresses but what a test gives."""

    def __init__(self) -> None:
        tag = f"lantern{os.getpid()}x{next(_COUNTER)}"
        self.a, self.b, self._switch = f"{tag}a", f"{tag}b", f"{tag}s"
        self._nodes: list[Node] = []

    def open(self) -> None:
        """Make the machines, the switch and the cables."""
        for namespace in (self._switch, self.a, self.b):
            ip("netns", "add", namespace)
            ip("-n", namespace, "link", "set", "lo", "up")
            ip("netns", "exec", namespace, "sh", "-c", "echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad")
        ip("-n", self._switch, "link", "add", "switch", "type", "bridge", "mcast_snooping", "0")
        ip("-n", self._switch, "link", "set", "switch", "up")
        for namespace in (self.a, self.b):
            port = self._port(namespace)
            ip("link", "add", "eth0", "netns", namespace, "type", "veth", "peer", "name", port, "netns", self._switch)
            ip("-n", self._switch, "link", "set", port, "up")
            self.plug_in(namespace)
            self.link_up(namespace)

    def close(self) -> None:
        """End every node and remove what was made."""
        for node in self._nodes:
            node.close()
        for namespace in (self.a, self.b, self._switch):
            subprocess.run(["ip", "netns", "del", namespace], capture_output=True, check=False)

    def plug_in(self, namespace: str) -> None:
        """Let the switch forward what the machine sends."""
        ip("-n", self._switch, "link", "set", self._port(namespace), "master", "switch")

    def part(self, namespace: str) -> None:
        """Put the machine into a network of its own; its link stays up."""
        ip("-n", self._switch, "link", "set", self._port(namespace), "nomaster")

    def _port(self, namespace: str) -> str:
        return f"port-{namespace[-1]}"

    def link_up(self, namespace: str) -> None:
        """Switch the link on; its IPv6 link-local address is there at once."""
        ip("-n", namespace, "link", "set", "eth0", "up")

    def link_down(self, namespace: str) -> None:
        """Pull the cable."""
        ip("-n", namespace, "link", "set", "eth0", "down")

    def add(self, namespace: str, address: str) -> None:
        """Give an address, as 10.0.0.1/24; an IPv6 one is usable at once."""
        ip("-n", namespace, "addr", "add", address, "dev", "eth0", *(["nodad"] if ":" in address else []))

    def remove(self, namespace: str, address: str) -> None:
        """Take an address away."""
        ip("-n", namespace, "addr", "del", address, "dev", "eth0")

    def node(self, namespace: str, *arguments: str) -> Node:
        """Start a node; the test's end ends it."""
        node = Node(namespace, *arguments)
        self._nodes.append(node)
        return node

    def command(self, namespace: str, verb: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command module on a machine, as `lantern` does, without what other verbs import."""
        command = ["ip", "netns", "exec", namespace, sys.executable, "-c", _LANTERN.format(verb), *arguments]
        environment = os.environ | {"PYTHONPATH": str(_ROOT)}
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.fixture
def lan() -> Iterator[Lan]:
    """An empty network of two machines."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    network = Lan()
    try:
        try:
            network.open()
        except (OSError, RuntimeError) as err:
            pytest.skip(f"network namespaces do not work here: {err}")
        yield network
    finally:
        network.close()


@pytest.fixture
def ipv4_lan(lan: Lan) -> Lan:
    """A network with 10.77.0.1 and 10.77.0.2."""
    lan.add(lan.a, "10.77.0.1/24")
    lan.add(lan.b, "10.77.0.2/24")
    return lan


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

"""A local network for tests: network namespaces on a bridge, which carry real multicast."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import selectors
import string
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

NODE = Path(__file__).parent / "discovery" / "lan_node.py"
_ROOT = Path(__file__).parents[1]
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
_END_TIMEOUT_S = 20.0
_EVENT_TIMEOUT_S = 60.0  # how long a busy machine may take; nothing is faster for a test that fails
_COUNTER = itertools.count()

Facts = dict[str, Any]


def ip(*arguments: str) -> None:
    """Run `ip`; its complaint is the error."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


class Node:
    """A script in a namespace, `lan_node.py` or one like it; its lines are read with a deadline, and no thread."""

    def __init__(self, namespace: str, *arguments: str, script: Path = NODE, **variables: str) -> None:
        command = ["ip", "netns", "exec", namespace, sys.executable, str(script), *arguments]
        environment = os.environ | {"PYTHONPATH": str(_ROOT), "PYTHONWARNINGS": "error"} | variables
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self._pending = b""

    def wait(self, fits: Callable[[Facts], bool], *, timeout_s: float = _EVENT_TIMEOUT_S) -> Facts:
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

    def event(self, name: str, *, timeout_s: float = _EVENT_TIMEOUT_S) -> Facts:
        """The next line of this event."""
        return self.wait(lambda facts: facts["event"] == name, timeout_s=timeout_s)

    def devices(self, fits: Callable[[list[Facts]], bool], *, timeout_s: float = _EVENT_TIMEOUT_S) -> list[Facts]:
        """The next list of devices that fits, of a node that watches."""
        found: list[Facts] = self.wait(lambda facts: fits(facts["devices"]), timeout_s=timeout_s)["devices"]
        return found

    def skip(self) -> None:
        """Forget the whole lines up to now."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._stdout, selectors.EVENT_READ)
            while selector.select(0) and (chunk := os.read(self._stdout.fileno(), 65536)):
                self._pending += chunk
        self._pending = self._pending.rpartition(b"\n")[2]

    def rest(self) -> list[Facts]:
        """The lines that are left of a node that was closed."""
        return [json.loads(line) for line in self._pending.splitlines()]

    def tell(self, line: str) -> None:
        """Send a command."""
        self._stdin.write(f"{line}\n".encode())
        self._stdin.flush()

    @property
    def pid(self) -> int:
        """Of the script itself: `ip netns exec` becomes it."""
        return self._process.pid

    def close(self) -> None:
        """End the process, however it stands."""
        self._process.kill()
        self._process.wait()
        self._stdin.close()
        if not self._stdout.closed:
            self._pending += self._stdout.read()
        self._stdout.close()


class Lan:
    """Machines on one switch, `a`, `b` and perhaps more; no addresses but what a test gives."""

    def __init__(self, num_machines: int = 2) -> None:
        tag = f"lantern{os.getpid()}x{next(_COUNTER)}"
        self.machines = [f"{tag}{letter}" for letter in string.ascii_lowercase[:num_machines]]
        self.a, self.b = self.machines[:2]
        self._switch = f"{tag}-switch"
        self._nodes: list[Node] = []
        self._processes: list[subprocess.Popen[bytes]] = []

    def open(self) -> None:
        """Make the machines, the switch and the cables."""
        for namespace in (self._switch, *self.machines):
            ip("netns", "add", namespace)
            ip("-n", namespace, "link", "set", "lo", "up")
            ip("netns", "exec", namespace, "sh", "-c", "echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad")
        ip("-n", self._switch, "link", "add", "switch", "type", "bridge", "mcast_snooping", "0")
        ip("-n", self._switch, "link", "set", "switch", "up")
        for namespace in self.machines:
            port = self._port(namespace)
            ip("link", "add", "eth0", "netns", namespace, "type", "veth", "peer", "name", port, "netns", self._switch)
            ip("-n", self._switch, "link", "set", port, "up")
            self.plug_in(namespace)
            self.link_up(namespace)

    def close(self) -> None:
        """End every node and remove what was made."""
        for node in self._nodes:
            node.close()
        for process in self._processes:
            process.terminate()  # a gateway ends its own processes
        for process in self._processes:
            try:
                process.wait(_END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for namespace in (*self.machines, self._switch):
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

    def node(self, namespace: str, *arguments: str, script: Path = NODE, **variables: str) -> Node:
        """Start a node; the test's end ends it."""
        node = Node(namespace, *arguments, script=script, **variables)
        self._nodes.append(node)
        return node

    def start(self, namespace: str, *command: str | Path, log: Path, **variables: str) -> subprocess.Popen[bytes]:
        """Start a program of any kind; the test's end kills it."""
        environment = os.environ | {"PYTHONPATH": str(_ROOT)} | variables
        with log.open("ab") as out:
            inside = ["ip", "netns", "exec", namespace, *map(str, command)]
            process = subprocess.Popen(inside, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment)
        self._processes.append(process)
        return process

    def command(self, namespace: str, verb: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command module on a machine, as `lantern` does, without what other verbs import."""
        command = ["ip", "netns", "exec", namespace, sys.executable, "-c", _LANTERN.format(verb), *arguments]
        environment = os.environ | {"PYTHONPATH": str(_ROOT)} | variables
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@contextlib.contextmanager
def open_lan(num_machines: int = 2) -> Iterator[Lan]:
    """An empty network; the test is skipped where there can be none."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    network = Lan(num_machines)
    try:
        try:
            network.open()
        except (OSError, RuntimeError) as err:
            pytest.skip(f"network namespaces do not work here: {err}")
        yield network
    finally:
        network.close()


@pytest.fixture
def lan() -> Iterator[Lan]:
    """An empty network of two machines."""
    with open_lan() as network:
        yield network


@pytest.fixture
def ipv4_lan(lan: Lan) -> Lan:
    """A network with 10.77.0.1 and 10.77.0.2."""
    lan.add(lan.a, "10.77.0.1/24")
    lan.add(lan.b, "10.77.0.2/24")
    return lan

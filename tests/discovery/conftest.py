"""The other resolvers that a device has to be found by, each on machine `b` of a test network."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.discovery.resolvers import Avahi, Bus, Resolved
from tests.lan import Lan, ipv4_lan, lan

__all__ = ["ipv4_lan", "lan"]


@pytest.fixture
def bus() -> Iterator[Bus]:
    """A system bus of a test's own; its folder is one that other users may enter."""
    if shutil.which("dbus-daemon") is None:
        pytest.skip("dbus-daemon is not installed")
    with tempfile.TemporaryDirectory() as folder:
        running = Bus(Path(folder))
        yield running
        running.close()


@pytest.fixture
def avahi(ipv4_lan: Lan, bus: Bus) -> Iterator[Avahi]:
    """Avahi and its `avahi-browse`."""
    if shutil.which("avahi-browse") is None:
        pytest.skip("avahi-browse is not installed")
    running = Avahi(ipv4_lan.b, bus, bus.path.parent)
    yield running
    running.close()


@pytest.fixture
def resolved(ipv4_lan: Lan, bus: Bus) -> Iterator[Resolved]:
    """systemd-resolved and its `resolvectl`."""
    running = Resolved(ipv4_lan.b, bus, bus.path.parent)
    yield running
    running.close()

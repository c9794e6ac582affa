"""`lantern gateway` before three real servers in three network namespaces, by LiteLLM's own proxy."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from appliance.home import Home
from tests.clients.environments import python_with
from tests.lan import Lan, Node, open_lan

pytestmark = [pytest.mark.clients, pytest.mark.netns, pytest.mark.models]

_LITELLM = "litellm[proxy]==1.106.2"
_KEY = "sk-of-the-house"
_MODEL = "smollm2-135m-instruct"
_LOAD = Path(__file__).with_name("load.py")
_READY_TIMEOUT_S = 120.0


@dataclass
class House:
    """Three devices with keys and TLS, and a machine with the gateway."""

    lan: Lan
    starter: Home
    folder: Path
    devices: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def office(self) -> str:
        """The machine with the gateway and its clients."""
        return self.lan.machines[3]

    def start_device(self, number: int) -> None:
        """Start `lantern serve` on a machine, and wait for its readiness."""
        name = f"device-{number}"
        home = self.folder / name
        if not home.exists():
            shutil.copytree(self.starter.trusted_keys, home / "keys" / "trusted")
            (home / "bundles").symlink_to(self.starter.bundles)
            (home / "cache").symlink_to(self.starter.cache)
        log = self.folder / f"{name}.log"
        self.devices[name] = self.lan.start(
            self.lan.machines[number],
            *(sys.executable, "-m", "appliance", "serve", "--host", "0.0.0.0", "--announce"),
            log=log,
            LANTERN_HOME=str(home),
            LANTERN_API_KEY=_KEY,
            LANTERN_TLS_ENABLED="true",
            LANTERN_SERVER_HTTP="false",
            LANTERN_DISCOVERY_NAME=name,
            LANTERN_ENGINE_THREADS="1",
        )
        wait_for(lambda: "announced" in log.read_text("utf-8").lower(), f"{name} is announced", log)

    def start_gateway(self, litellm: Path, *, num_devices: int = 3) -> str:
        """Start the gateway, and give its base URL once it serves so many devices."""
        log = self.folder / "gateway.log"
        named = [word for number in range(3) for word in ("--device", f"device-{number}")]
        self.lan.start(
            self.office,
            *(sys.executable, "-m", "appliance", "gateway", "--litellm", str(litellm), *named),
            log=log,
            LANTERN_HOME=str(self.folder / "office"),
            LANTERN_API_KEY=_KEY,
        )
        self.wait_for_gateway("is ready; its key is in")
        self.wait_for_gateway(f"from {num_devices} devices")
        return "http://127.0.0.1:4000/v1"

    def wait_for_gateway(self, line: str) -> None:
        """Until the gateway has said so."""
        log = self.folder / "gateway.log"
        wait_for(lambda: line in log.read_text("utf-8"), f"the gateway says {line!r}", log)

    def load(self, url: str, *arguments: str) -> Node:
        """Clients beside the gateway."""
        key = (self.folder / "office" / "keys" / "gateway").read_text("ascii").strip()
        return self.lan.node(self.office, "--url", url, "--key", key, "--model", _MODEL, *arguments, script=_LOAD)


def wait_for(is_so: Callable[[], bool], what: str, log: Path) -> None:
    """Poll a fact that another process brings about."""
    deadline_s = time.monotonic() + _READY_TIMEOUT_S
    while not is_so():
        assert time.monotonic() < deadline_s, f"not in time: {what}\n{log.read_text('utf-8')[-6000:]}"
        time.sleep(0.1)


@pytest.fixture
def litellm() -> Path:
    if not os.environ.get("LANTERN_CLIENT_TESTS"):
        pytest.skip("set LANTERN_CLIENT_TESTS=1 to install and run LiteLLM's proxy")
    return python_with(_LITELLM).with_name("litellm")


@pytest.fixture
def house(starter_home: Home, tmp_path: Path, litellm: Path) -> Iterator[House]:
    with open_lan(4) as lan:
        for number, machine in enumerate(lan.machines, 1):
            lan.add(machine, f"10.77.0.{number}/24")
        started = House(lan, starter_home, tmp_path)
        for number in range(2):
            started.start_device(number)
        yield started


def kill(house: House) -> None:
    house.devices["device-1"].send_signal(signal.SIGKILL)


def pull_the_plug(house: House) -> None:
    house.lan.link_down(house.lan.machines[1])


def switch_off(house: House) -> None:
    house.devices["device-1"].terminate()


@pytest.mark.parametrize(
    ("leave", "kind"), [(kill, []), (pull_the_plug, []), (switch_off, []), (switch_off, ["--stream"])]
)
def test_a_device_that_leaves_under_load_costs_no_client_an_error(
    house: House, litellm: Path, leave: Callable[[House], None], kind: list[str]
) -> None:
    house.start_device(2)
    url = house.start_gateway(litellm)
    load = house.load(url, *kind)
    load.wait(lambda facts: facts["answers"] >= 12, timeout_s=120)
    leave(house)
    house.wait_for_gateway("device-1 takes no requests")
    load.skip()
    left = load.event("asked")
    load.wait(lambda facts: facts["answers"] >= left["answers"] + 24, timeout_s=120)
    load.tell("stop")
    ended = load.event("ended", timeout_s=60)
    log = (house.folder / "gateway.log").read_text("utf-8")
    assert (ended["num_errors"], ended["errors"]) == (0, []), log[-3000:]
    assert _KEY not in log
    assert all(_KEY not in path.read_text("utf-8") for path in (house.folder / "office" / "gateway").iterdir())


def test_a_device_that_joins_under_load_is_used_and_no_client_sees_the_change(house: House, litellm: Path) -> None:
    """A new configuration is a new process of LiteLLM beside the old one."""
    load = house.load(house.start_gateway(litellm, num_devices=2))
    load.wait(lambda facts: facts["answers"] >= 6, timeout_s=120)
    house.start_device(2)
    house.wait_for_gateway("from 3 devices")
    load.skip()
    joined = load.event("asked")
    load.wait(lambda facts: facts["answers"] >= joined["answers"] + 24, timeout_s=120)
    load.tell("stop")
    ended = load.event("ended", timeout_s=60)
    assert (ended["num_errors"], ended["errors"]) == (0, [])
    assert "/v1/chat/completions" in (house.folder / "device-2.log").read_text("utf-8")

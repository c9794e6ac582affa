"""`lantern gateway` before three real servers in three network namespaces, by LiteLLM's own proxy.

One network, and one gateway as long as nothing ends it: devices leave it and come back, as in a house.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest

from appliance.home import Home
from appliance.identity.certificate import device_certificate
from appliance.remote import KnownDevices
from tests.clients.environments import python_with
from tests.lan import Lan, Node, open_lan
from tests.remote.waiting import READY_TIMEOUT_S, wait_for

_LITELLM = "litellm[proxy]==1.106.2"
_KEY = "sk-of-the-house"
_MODEL = "smollm2-135m-instruct"
_LOAD = Path(__file__).with_name("load.py")
_NUM_DEVICES = 3


class House:
    """Machines with a device each, which have keys and TLS, and one with the gateway."""

    def __init__(self, lan: Lan, starter: Home, folder: Path, litellm: Path) -> None:
        self._lan, self._starter, self._folder, self._litellm = lan, starter, folder, litellm
        self._devices: dict[int, subprocess.Popen[bytes]] = {}
        self._gateway: subprocess.Popen[bytes] | None = None
        self.office = Home(folder / "office")

    @property
    def log(self) -> Path:
        """Return the output of the gateway and its LiteLLM."""
        return self._folder / "gateway.log"

    def device_log(self, number: int) -> str:
        """Return a device's output."""
        return (self._folder / f"device-{number}.log").read_text("utf-8")

    def start_device(self, number: int) -> None:
        """Start `lantern serve` on a machine, and wait until it is announced."""
        name = f"device-{number}"
        home = Home(self._folder / name)
        if not home.root.exists():
            shutil.copytree(self._starter.trusted_keys, home.trusted_keys)
            home.bundles.symlink_to(self._starter.bundles)
            (home.root / "cache").symlink_to(self._starter.root / "cache")
        log = self._folder / f"{name}.log"
        log.touch()
        num_announced = log.read_text("utf-8").count("Announced")
        self._devices[number] = self._lan.start(
            self._lan.machines[number],
            *(sys.executable, "-m", "appliance", "serve", "--host", "0.0.0.0", "--announce"),
            log=log,
            LANTERN_HOME=str(home.root),
            LANTERN_API_KEY=_KEY,
            LANTERN_TLS_ENABLED="true",
            LANTERN_SERVER_HTTP="false",
            LANTERN_DISCOVERY_NAME=name,
            LANTERN_ENGINE_THREADS="1",
        )
        wait_for(lambda: log.read_text("utf-8").count("Announced") > num_announced, f"{name} is announced", log)

    def kill(self, number: int) -> None:
        """As a crash, or a power cut that the network does not notice."""
        self._devices.pop(number).send_signal(signal.SIGKILL)

    def switch_off(self, number: int) -> None:
        """As `systemctl stop`."""
        self._devices.pop(number).terminate()

    def pull_the_plug(self, number: int) -> None:
        """Nothing is heard of the machine any more."""
        self._lan.link_down(self._lan.machines[number])

    def change_certificate(self, number: int) -> None:
        """Replace it under the running server."""
        new = device_certificate(self._folder / "new.pem", host_name="device.local")
        new.replace(Home(self._folder / f"device-{number}").tls)

    def complete(self) -> None:
        """All devices are there, and the gateway leads to them."""
        for number in range(_NUM_DEVICES):
            self._lan.link_up(self._lan.machines[number])
            if number not in self._devices:
                self.start_device(number)
        self.start_gateway()
        self.wait_for_gateway(lambda said: f"from {_NUM_DEVICES} devices" in said)
        for number in range(_NUM_DEVICES):
            self.wait_for_gateway(partial(is_back, f"device-{number}"))

    def start_gateway(self) -> None:
        """Start it where it does not run, and wait until it serves."""
        if self._gateway is not None and self._gateway.poll() is None:
            return
        self.log.write_bytes(b"")
        named = [word for number in range(_NUM_DEVICES) for word in ("--device", f"device-{number}")]
        self._gateway = self._lan.start(
            self._lan.machines[_NUM_DEVICES],
            *(sys.executable, "-m", "appliance", "gateway", "--litellm", str(self._litellm), *named),
            log=self.log,
            LANTERN_HOME=str(self.office.root),
            LANTERN_API_KEY=_KEY,
        )
        self.wait_for_gateway(lambda said: "is ready; its key is in" in said)

    def kill_gateway(self) -> None:
        """End it by force."""
        assert self._gateway is not None
        self._gateway.kill()
        self._gateway.wait()

    def started_by_gateway(self) -> list[psutil.Process]:
        """Its processes now."""
        assert self._gateway is not None
        return psutil.Process(self._gateway.pid).children(recursive=True)

    def wait_for_gateway(self, has_said: Callable[[str], bool]) -> None:
        """Until its log has what is expected of it."""
        wait_for(lambda: has_said(self.log.read_text("utf-8")), "the gateway has said so", self.log)

    def load(self, *arguments: str) -> Node:
        """Clients beside the gateway, which have had their first answers."""
        key = (self.office.root / "keys" / "gateway").read_text("ascii").strip()
        where = ("--url", "http://127.0.0.1:4000/v1", "--key", key, "--model", _MODEL)
        load = self._lan.node(self._lan.machines[_NUM_DEVICES], *where, *arguments, script=_LOAD)
        more_answers(load, 6)
        return load


def is_alive(process: psutil.Process) -> bool:
    """Tell if it runs; one that was not waited for yet does not."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def num_back(said: str) -> int:
    """Return the number of times that device 1 has come back."""
    return said.count("device-1 takes requests again")


def is_back(device: str, said: str) -> bool:
    """Tell if it takes requests as often again as it took none."""
    return said.count(f"{device} takes no requests") == said.count(f"{device} takes requests again")


def more_answers(load: Node, num: int) -> None:
    """Wait for so many answers from now on."""
    load.skip()
    now = load.event("asked")["answers"]
    load.wait(lambda facts: facts["answers"] >= now + num, timeout_s=READY_TIMEOUT_S)


def assert_no_client_saw_an_error(load: Node) -> None:
    """At the end of a load."""
    load.tell("stop")
    ended = load.event("ended", timeout_s=120)
    assert (ended["num_errors"], ended["errors"]) == (0, [])


@pytest.fixture(scope="module")
def house(wants_clients: None, starter_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Two devices and the gateway at first."""
    litellm = python_with(_LITELLM).with_name("litellm")
    with open_lan(_NUM_DEVICES + 1) as lan:
        for number, machine in enumerate(lan.machines, 1):
            lan.add(machine, f"10.77.0.{number}/24")
        begun = House(lan, starter_home, tmp_path_factory.mktemp("house"), litellm)
        for number in range(2):
            begun.start_device(number)
        begun.start_gateway()
        begun.wait_for_gateway(lambda said: "from 2 devices" in said)
        yield begun


def test_a_device_that_joins_under_load_is_used_and_no_client_sees_the_change(house: House) -> None:
    """A new configuration is a new process of LiteLLM beside the old one."""
    load = house.load()  # of four, three are under way when the next device is chosen: more than the two had
    house.complete()
    wait_for(lambda: "/v1/chat/completions" in house.device_log(2), "the new device is asked", house.log)
    more_answers(load, 24)
    assert_no_client_saw_an_error(load)


@pytest.mark.parametrize(
    ("leave", "kind"),
    [(House.kill, []), (House.pull_the_plug, []), (House.switch_off, []), (House.switch_off, ["--stream"])],
)
def test_a_device_that_leaves_under_load_costs_no_client_an_error(
    house: House, leave: Callable[[House, int], None], kind: list[str]
) -> None:
    house.complete()
    num_left = house.log.read_text("utf-8").count("device-1 takes no requests")
    load = house.load(*kind)
    leave(house, 1)
    house.wait_for_gateway(lambda said: said.count("device-1 takes no requests") > num_left)
    more_answers(load, 24)
    assert_no_client_saw_an_error(load)


def test_no_key_of_a_device_is_in_what_the_gateway_writes(house: House) -> None:
    house.complete()
    assert _KEY not in house.log.read_text("utf-8")
    written = list((house.office.root / "gateway").iterdir())
    assert [path.suffix for path in written] == [".yaml"] * len(written)
    assert len(json.loads(written[0].read_text("utf-8"))["model_list"]) >= 2
    assert all(_KEY not in path.read_text("utf-8") for path in written)


def test_a_device_with_another_certificate_gets_no_requests_until_it_is_known_anew(house: House) -> None:
    house.start_gateway()
    house.change_certificate(1)
    house.wait_for_gateway(lambda said: "shows another certificate than the device known as 'device-1'" in said)
    house.wait_for_gateway(lambda said: said.count("device-1 takes no requests") == num_back(said) + 1)
    assert KnownDevices.load(house.office.known_devices).forget("device-1")
    house.wait_for_gateway(partial(is_back, "device-1"))


def test_a_gateway_that_is_killed_leaves_no_process_behind(house: House) -> None:
    house.start_gateway()
    started = house.started_by_gateway()
    assert any("litellm" in word for process in started for word in process.cmdline())
    house.kill_gateway()
    wait_for(lambda: not any(is_alive(process) for process in started), "LiteLLM has ended too", house.log)

"""A new device on a network: found, claimed by its name, given a model from a workstation; all by commands."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from appliance.access.claim_code import read_code
from appliance.bundle import TrustedKeys
from appliance.home import Home
from tests.install.tiny_bundles import TinyDevice
from tests.lan import Lan

_SETTINGS = """
[server]
host = "0.0.0.0"
claimable = true
[tls]
enabled = true
[discovery]
announce = true
name = "kitchen"
"""


class Network:
    """A device on machine `a`, a workstation on machine `b`."""

    def __init__(self, lan: Lan, root: Path) -> None:
        self._lan, self._root = lan, root
        self.device = Home(root / "device")
        self.workstation = Home(root / "workstation")
        self.device.root.mkdir()
        (self.device.root / "lantern.toml").write_text(_SETTINGS)
        serve = [sys.executable, "-m", "appliance", "serve"]
        lan.start(lan.a, *serve, log=root / "device.log", LANTERN_HOME=str(self.device.root))

    def lantern(self, verb: str, *arguments: str, key: str = "") -> tuple[int, str]:
        """A command on the workstation: exit code and all that it said."""
        variables = {
            "LANTERN_HOME": str(self.workstation.root),
            "LANTERN_API_KEY": key,
            "PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring",
        }
        result = self._lan.command(self._lan.b, verb, *arguments, **variables)
        return result.returncode, result.stdout + result.stderr

    def identity(self, name: str) -> dict[str, object]:
        """The device as it describes itself, asked under this name."""
        command = ["curl", "--silent", "--resolve", f"{name}:8080:10.77.0.1", f"http://{name}:8080/identity"]
        deadline_s = time.monotonic() + 60
        while time.monotonic() < deadline_s:
            inside = ["ip", "netns", "exec", self._lan.b, *command]
            said = subprocess.run(inside, capture_output=True, text=True, check=True).stdout
            told: dict[str, object] = json.loads(said)
            if told.get("alias"):
                return told
        raise AssertionError(f"{name} is nobody's: {said}")

    def record(self) -> dict[str, object]:
        """The device as it is announced, once it is."""
        deadline_s = time.monotonic() + 60
        while time.monotonic() < deadline_s:
            code, said = self.lantern("discover", "--json", "--timeout", "2")
            if code == 0:
                found: list[dict[str, object]] = json.loads(said[said.index("[") : said.rindex("]") + 1])
                return found[0]
        raise AssertionError((self._root / "device.log").read_text("utf-8", "replace"))


@pytest.fixture
def network(ipv4_lan: Lan, tmp_path: Path) -> Network:
    return Network(ipv4_lan, tmp_path)


def test_a_new_device_is_claimed_by_name_and_given_a_model(network: Network, tmp_path: Path) -> None:
    new = network.record()
    assert (new["num_models"], new["state"]) == (0, "starting")
    told = network.identity("lantern.local")
    assert told["alias"] == "lantern.local"
    assert told["url"] == f"https://{told['name']}:8443/"
    assert told["addresses"] == ["10.77.0.1"]
    assert told["claim"] == "code"
    code, said = network.lantern("claim", "--device", "kitchen", "--as", "me")
    assert code == 7
    assert "the code on its screen" in said
    code, said = network.lantern("claim", "--device", "kitchen", "--as", "me", "--code", "0000-0000")
    assert code == 7
    assert "not the code" in said
    shown = read_code(network.device.claim_code) or ""
    code, said = network.lantern("claim", "--device", "kitchen", "--as", "me", "--code", shown.lower())
    assert code == 0, said
    key = next(line for line in said.splitlines() if line.startswith("sk-"))
    assert "sha256//" in said
    assert "sha256//" in network.workstation.known_devices.read_text("utf-8")
    code, said = network.lantern("claim", "--device", "kitchen", "--as", "thief")
    assert code == 7
    assert "claimed by me from 10.77.0.2" in said
    maker = TinyDevice(tmp_path / "maker")
    made = maker.make(3)
    code, said = network.lantern("models", "install", str(made), "--device", "kitchen", key=key)
    assert code == 7
    assert "not trusted" in said
    [public] = maker.trusted.glob("*.pub")
    assert network.lantern("models", "trust", str(public), "--device", "kitchen", key=key)[0] == 0
    code, said = network.lantern("models", "install", str(made), "--device", "kitchen", key=key)
    assert code == 0, said
    assert "tiny is installed" in said
    claimed = network.record()
    assert (claimed["num_models"], claimed["state"]) == (1, "ready")
    assert TrustedKeys.load(network.device.trusted_keys).all().keys() == {public.stem}
    code, said = network.lantern("models", "list", "--device", "kitchen", key="sk-of-somebody-else")
    assert code == 7
    assert "Incorrect API key" in said

"""A device whose certificate changes while it serves: its record follows, and clients refuse it until they are told."""

from __future__ import annotations

import sys
from pathlib import Path

from appliance.home import Home
from appliance.identity.certificate import device_certificate, pin_of
from tests.lan import Facts, Lan

from .conftest import KEY

_PEER = Path(__file__).with_name("lan_peer.py")


class Clients:
    """Programs on machine `b`, which share what they remember."""

    def __init__(self, lan: Lan, home: Path) -> None:
        self._lan = lan
        self._variables = {"LANTERN_HOME": str(home), "LANTERN_API_KEY": KEY}

    def ask(self) -> Facts:
        """Ask the device by its name, as a program with OpenAI's SDK."""
        node = self._lan.node(self._lan.b, "client", "--wanted", "kitchen", script=_PEER, **self._variables)
        return node.wait(lambda facts: facts["event"] in {"answered", "refused"})

    def forget(self) -> int:
        """Accept another certificate."""
        return self._lan.command(
            self._lan.b, "discover", "--forget", "--device", "kitchen", **self._variables
        ).returncode


def test_the_record_follows_the_certificate_and_clients_refuse_it_until_they_are_told(
    ipv4_lan: Lan, tmp_path: Path
) -> None:
    home = Home(tmp_path / "device")
    shown = device_certificate(home.tls, host_name="kitchen.local")
    another = device_certificate(tmp_path / "another.pem", host_name="kitchen.local")
    clients = Clients(ipv4_lan, tmp_path / "clients")
    watcher = ipv4_lan.node(ipv4_lan.b, "watch")
    ipv4_lan.start(
        ipv4_lan.a,
        *(sys.executable, "-m", "appliance", "serve", "--host", "0.0.0.0", "--announce"),
        log=tmp_path / "log",
        LANTERN_HOME=str(home.root),
        LANTERN_API_KEY=KEY,
        LANTERN_TLS_ENABLED="true",
        LANTERN_DISCOVERY_NAME="kitchen",
    )
    former, new = pin_of(shown), pin_of(another)
    watcher.devices(lambda found: [d["fingerprint"] for d in found] == [former])
    assert clients.ask()["event"] == "answered"
    another.replace(shown)
    watcher.devices(lambda found: [d["fingerprint"] for d in found] == [new])
    refused = clients.ask()
    assert refused["event"] == "refused", refused
    assert "shows another certificate than the device known as 'kitchen'" in refused["message"]
    assert "accept it with: lantern discover --forget" in refused["message"]
    assert clients.forget() == 0
    assert clients.ask()["event"] == "answered"

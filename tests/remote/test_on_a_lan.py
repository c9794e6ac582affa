"""OpenAI's SDK against devices that were found by real multicast, true ones and rogues, in network namespaces."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.remote import KnownDevices
from tests.lan import Facts, Lan, Node

from .conftest import KEY

_PEER = Path(__file__).with_name("lan_peer.py")
_FOUND = {"event": "answered", "url": "https://10.77.0.1:8443/v1/", "models": ["chatty"]}


class Machines:
    """A device on machine `a`, a client and perhaps a rogue on machine `b`."""

    def __init__(self, lan: Lan, home: Path) -> None:
        self._lan, self._home = lan, home
        self._true_on, self._rogue_on = lan.a, lan.b

    def swap(self, *, is_true_on_b: bool) -> None:
        """Put the device on `b` and the rogue on `a`."""
        if is_true_on_b:
            self._true_on, self._rogue_on = self._lan.b, self._lan.a

    def device(self, *arguments: str) -> Node:
        """The device that is meant."""
        return self._announced(self._true_on, "true.pem", *arguments)

    def rogue(self, *arguments: str) -> Node:
        """One that would like to be it."""
        return self._announced(self._rogue_on, "rogue.pem", *arguments)

    def client(self, *arguments: str, key: str = KEY) -> Facts:
        """Run a program with this key in its environment; return its outcome."""
        [met] = self.clients(*arguments, key=key)
        return met

    def clients(self, *arguments: str, key: str = KEY, verb: str = "client", num: int = 1) -> list[Facts]:
        """Run it so many times; return the outcomes."""
        variables = {"LANTERN_HOME": str(self._home), "LANTERN_API_KEY": key, "OPENAI_API_KEY": "sk-of-the-cloud"}
        node = self._lan.node(self._lan.b, verb, *arguments, script=_PEER, **variables)
        return [node.wait(lambda facts: facts["event"] in {"answered", "refused"}) for _ in range(num)]

    @property
    def known(self) -> set[str]:
        """The names remembered."""
        return {device.name for device in KnownDevices.load(self._home / "known_devices").all}

    def forget(self, name: str) -> None:
        """As `lantern discover --forget` does."""
        KnownDevices.load(self._home / "known_devices").forget(name)

    def _announced(self, machine: str, certificate: str, *arguments: str) -> Node:
        path = str(self._home / certificate)
        node = self._lan.node(machine, "device", "--certificate", path, *arguments, script=_PEER)
        node.event("announced")
        return node


@pytest.fixture
def machines(ipv4_lan: Lan, tmp_path: Path) -> Machines:
    return Machines(ipv4_lan, tmp_path)


def heard(node: Node) -> str:
    """Return the text of the first client that wrote anything."""
    said: str = node.wait(lambda facts: bool(facts.get("said")))["said"]
    return said


def all_that_was_heard(node: Node) -> list[str]:
    """Return the clients' text up to now: the last of them is one that this asks to speak."""
    node.close()
    return [facts["said"] for facts in node.rest() if facts["event"] == "heard"]


def test_the_only_device_is_used_with_nothing_typed_in(machines: Machines) -> None:
    device = machines.device()
    assert machines.client() == _FOUND
    said = heard(device)
    assert f"\r\nauthorization: bearer {KEY}\r\n" in said.lower()
    assert machines.known == {"kitchen"}
    assert machines.client() == _FOUND


def test_a_device_is_used_by_its_name_and_its_model(machines: Machines) -> None:
    machines.device()
    assert machines.client("--wanted", "kitchen", "--model", "chatty") == _FOUND
    refused = machines.client("--wanted", "kitchen", "--model", "absent")
    assert (refused["error"], "'absent'" in refused["message"]) == ("DiscoveryError", True)


def test_a_client_within_an_event_loop_finds_it_too(machines: Machines) -> None:
    machines.device()
    assert machines.clients(verb="async_client", num=2) == [_FOUND, _FOUND]


def test_a_device_with_both_is_talked_to_over_tls(machines: Machines) -> None:
    machines.device("--beside")
    assert machines.client() == _FOUND


def test_without_a_key_none_is_sent_not_even_the_clouds(machines: Machines) -> None:
    device = machines.device()
    assert machines.client(key="") == _FOUND
    assert "authorization" not in heard(device).lower()


def test_a_device_that_wants_no_key_gets_none(machines: Machines) -> None:
    device = machines.device("--plain", "--auth", "none")
    assert machines.client()["url"] == "http://10.77.0.1:8443/v1/"
    assert "authorization" not in heard(device).lower()


@pytest.mark.parametrize("rogue_id", ["00112233aabbccdd", "ffffffffffffffff"])
def test_a_rogue_with_our_name_or_id_is_refused_and_sent_nothing(machines: Machines, rogue_id: str) -> None:
    device = machines.device()
    assert machines.client() == _FOUND
    device.close()
    rogue = machines.rogue("--id", rogue_id, "--name", "kitchen")
    met = machines.clients("--wanted", "", "--wanted", "kitchen", "--wanted", "00112233aabbccdd", num=3)
    assert [facts["event"] for facts in met] == ["refused"] * 3, met
    assert set(all_that_was_heard(rogue)) == {""}


@pytest.mark.parametrize("true_machine", ["a", "b"])
def test_a_rogue_beside_the_true_device_does_not_even_keep_it_away(machines: Machines, true_machine: str) -> None:
    """It takes the same id, and thereby the host name too; on machine `a` its address is the first to be tried."""
    machines.swap(is_true_on_b=true_machine == "b")
    machines.device()
    true = machines.client()
    rogue = machines.rogue("--id", "00112233aabbccdd", "--name", "Kitchen 0")
    wanted = ("--wanted", "", "--wanted", "kitchen", "--wanted", "00112233aabbccdd")
    met = machines.clients(*wanted, "--timeout-s", "15", num=3)  # on a busy machine, 3 s are too few for two to answer
    # Of its addresses the one that was heard of first is tried first, which with two answers on the way is any of them.
    assert [(facts["event"], facts["models"]) for facts in met] == [("answered", true["models"])] * 3
    assert set(all_that_was_heard(rogue)) == {""}


def test_a_rogue_without_tls_is_refused(machines: Machines) -> None:
    device = machines.device()
    assert machines.client() == _FOUND
    device.close()
    rogue = machines.rogue("--plain", "--auth", "none")
    refused = machines.client("--wanted", "kitchen")
    assert (refused["error"], "speaks no TLS" in refused["message"]) == ("TrustError", True)
    assert all_that_was_heard(rogue) == []


def test_a_key_goes_to_no_device_that_speaks_no_tls(machines: Machines) -> None:
    device = machines.device("--plain")
    refused = machines.client("--wanted", "kitchen")
    assert (refused["error"], "speaks no TLS" in refused["message"]) == ("TrustError", True)
    assert all_that_was_heard(device) == []


def test_a_key_goes_to_no_new_device_that_was_not_named_when_others_are_known(machines: Machines) -> None:
    device = machines.device()
    assert machines.client() == _FOUND
    device.close()
    new = machines.rogue("--id", "ffffffffffffffff", "--name", "attic")
    refused = machines.client()
    assert (refused["error"], "give its name" in refused["message"]) == ("TrustError", True)
    assert machines.client("--wanted", "attic")["url"] == "https://10.77.0.2:8443/v1/"
    assert machines.known == {"kitchen", "attic"}
    assert KEY in heard(new)


def test_a_device_that_was_set_up_anew_is_accepted_once_it_is_forgotten(machines: Machines) -> None:
    device = machines.device()
    assert machines.client() == _FOUND
    device.close()
    machines.rogue()
    assert machines.client("--wanted", "kitchen")["event"] == "refused"
    machines.forget("kitchen")
    assert machines.client("--wanted", "kitchen")["url"] == "https://10.77.0.2:8443/v1/"

"""A device's URL, and the choice among several."""

from __future__ import annotations

import ipaddress
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.discovery.device import Device, choose, usable_addresses
from appliance.discovery.record import ServiceRecord, State
from appliance.errors import DiscoveryError

_HOME = (ipaddress.ip_interface("192.168.1.5/24"), ipaddress.ip_interface("fd00:1::5/64"))


def device(
    name: str, *, address: str = "192.168.1.20", state: State = State.READY, device_id: str = "a" * 16
) -> Device:
    record = ServiceRecord(device_id, state=state)
    return Device(name, f"lantern-{device_id[:8]}.local.", 8080, (address,), record, {})


def test_the_only_device_is_chosen() -> None:
    choice = choose([device("kitchen")])
    assert choice.reason == "Using kitchen at http://192.168.1.20:8080/v1: it is the only one found."


def test_the_choice_does_not_depend_on_the_order_in_which_devices_were_heard() -> None:
    devices = [device(name, device_id=name[0] * 16) for name in ("attic", "bath", "cellar", "dado")]
    chosen = {choose(random.Random(seed).sample(devices, 4)).device.name for seed in range(20)}
    assert chosen == {"attic"}


def test_a_ready_device_is_better_than_one_that_starts() -> None:
    choice = choose([device("attic", state=State.STARTING), device("bath", device_id="b" * 16)])
    assert choice.device.name == "bath"
    assert "first of 2 by state and name" in choice.reason


@pytest.mark.parametrize("name", ["Kitchen", "lantern-aaaaaaaa", "lantern-aaaaaaaa.local", "a" * 16])
def test_a_device_answers_to_its_name_host_and_id(name: str) -> None:
    assert choose([device("bath", device_id="b" * 16), device("kitchen")], name=name).device.name == "kitchen"


def test_a_name_that_nobody_has_tells_who_is_there() -> None:
    with pytest.raises(DiscoveryError, match=r"'cellar'.*there is bath, kitchen"):
        choose([device("kitchen"), device("bath")], name="cellar")


def test_a_name_that_two_devices_have_is_not_guessed_at() -> None:
    twins = [device("kitchen"), device("Kitchen", address="192.168.1.66", device_id="b" * 16)]
    with pytest.raises(DiscoveryError, match="Several devices answer to 'kitchen'"):
        choose(twins, name="kitchen")


def test_a_model_selects_the_device_that_serves_it() -> None:
    devices = [device("attic"), device("bath", address="192.168.1.21", device_id="b" * 16)]
    models = {devices[0].base_url: ["x"], devices[1].base_url: ["x", "y"]}
    assert choose(devices, model="y", models=models).device.name == "bath"
    with pytest.raises(DiscoveryError, match="'z'; the models found are: x, y"):
        choose(devices, model="z", models=models)


def test_nothing_found_says_what_to_do() -> None:
    with pytest.raises(DiscoveryError, match="lantern serve --announce"):
        choose([])


def test_an_address_of_the_own_network_comes_first() -> None:
    found = ["10.9.9.9", "fe80::1%77", "fd00:1::7", "192.168.1.20", "2001:db8::1"]
    assert usable_addresses(found, _HOME) == ("192.168.1.20", "fd00:1::7", "fe80::1%77", "10.9.9.9", "2001:db8::1")


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "::1", "0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255", "fe80::1"]
)
def test_an_address_that_leads_nowhere_or_home_is_dropped(address: str) -> None:
    assert usable_addresses([address], _HOME) == ()


def test_an_ipv4_address_in_disguise_is_dropped() -> None:
    assert usable_addresses(["::ffff:127.0.0.1"], _HOME) == ()


@given(st.lists(st.text(max_size=20) | st.ip_addresses().map(str), max_size=8))
def test_foreign_addresses_never_raise_and_always_make_a_url(found: list[str]) -> None:
    for address in usable_addresses(found, _HOME):
        url = device("x", address=address).base_url
        assert url.startswith("http://")
        assert url.endswith(":8080/v1")


def test_an_ipv6_url_has_brackets_and_keeps_its_zone() -> None:
    assert device("x", address="fd00::1").base_url == "http://[fd00::1]:8080/v1"
    assert device("x", address="fe80::1%eth0").base_url == "http://[fe80::1%eth0]:8080/v1"


def test_a_stolen_id_does_not_hide_the_device_that_it_belongs_to() -> None:
    rogue = Device("kitchen-2", "evil.local.", 8080, ("192.168.1.66",), ServiceRecord("a" * 16), {})
    assert device("kitchen").identity != rogue.identity
    assert device("kitchen").identity == device("kitchen-2").identity

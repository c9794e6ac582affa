"""A short name over real multicast: the first device has it, and a conflict ends with one host that has it."""

from __future__ import annotations

import pytest

from tests.discovery.resolvers import Avahi, Bus
from tests.lan import Lan, Node, open_lan

NAME = "lantern.local"


def device(lan: Lan, machine: str, digit: str = "a") -> Node:
    return lan.node(machine, "announce", "--id", digit * 16, "--name", f"device {digit}", "--short", "lantern")


def addresses(lan: Lan, machine: str, name: str = NAME) -> list[str]:
    found: list[str] = lan.node(machine, "look_up", "--host", name).event("looked up")["addresses"]
    return found


def test_a_device_has_the_short_name_beside_its_own_until_its_goodbye(ipv4_lan: Lan) -> None:
    first = device(ipv4_lan, ipv4_lan.a)
    assert first.event("short")["name"] == NAME
    found = addresses(ipv4_lan, ipv4_lan.b)
    assert found == addresses(ipv4_lan, ipv4_lan.b, "lantern-aaaaaaaa.local")
    assert "10.77.0.1" in found
    follower = ipv4_lan.node(ipv4_lan.b, "follow", "--host", NAME)
    follower.wait(lambda facts: "10.77.0.1" in facts["addresses"])
    first.tell("stop")
    follower.wait(lambda facts: facts["addresses"] == [])  # long before its records expire


def test_the_second_device_leaves_it_to_the_first_and_has_it_after_that_ones_goodbye(ipv4_lan: Lan) -> None:
    first = device(ipv4_lan, ipv4_lan.a)
    first.event("short")
    second = device(ipv4_lan, ipv4_lan.b, "b")
    second.event("announced")
    with pytest.raises(AssertionError, match="Nothing that fits"):
        second.wait(lambda facts: facts["event"] == "short", timeout_s=3.0)
    assert "10.77.0.1" in addresses(ipv4_lan, ipv4_lan.b)
    first.tell("stop")
    assert second.event("short")["name"] == NAME
    assert "10.77.0.2" in addresses(ipv4_lan, ipv4_lan.a)


def test_of_two_devices_that_are_switched_on_at_once_one_has_it(ipv4_lan: Lan) -> None:
    both = [device(ipv4_lan, ipv4_lan.a), device(ipv4_lan, ipv4_lan.b, "b")]
    for node in both:
        node.event("announced")
    follower = ipv4_lan.node(ipv4_lan.b, "follow", "--host", NAME)
    found = follower.wait(lambda facts: facts["event"] == "settled")["addresses"]
    assert len([address for address in found if ":" not in address]) == 1


def test_two_devices_that_had_it_in_networks_of_their_own_end_with_one(ipv4_lan: Lan) -> None:
    ipv4_lan.part(ipv4_lan.a)
    first, second = device(ipv4_lan, ipv4_lan.a), device(ipv4_lan, ipv4_lan.b, "b")
    assert first.event("short")["name"] == second.event("short")["name"] == NAME
    ipv4_lan.plug_in(ipv4_lan.a)
    rogue = ipv4_lan.node(ipv4_lan.b, "ask_all", "--host", NAME)  # both answer, and so hear one another
    rogue.event("asked")
    follower = ipv4_lan.node(ipv4_lan.a, "follow", "--host", NAME)
    found = follower.wait(lambda facts: facts["event"] == "settled")["addresses"]
    assert len([address for address in found if ":" not in address]) == 1


def test_a_name_that_another_host_takes_without_asking_is_given_up(ipv4_lan: Lan) -> None:
    first = device(ipv4_lan, ipv4_lan.a)
    assert first.event("short")["name"] == NAME
    claimer = ipv4_lan.node(ipv4_lan.b, "claim", "--name", "other", "--host", "lantern", "--addresses", "10.77.0.2")
    claimer.event("claiming")
    assert first.event("short")["name"] is None
    found = ipv4_lan.node(ipv4_lan.b, "follow", "--host", NAME).wait(lambda facts: facts["event"] == "settled")
    assert found["addresses"] == ["10.77.0.2"]


def test_a_computer_of_that_name_which_comes_later_takes_another(ipv4_lan: Lan, bus: Bus) -> None:
    device(ipv4_lan, ipv4_lan.a).event("short")
    computer = Avahi(ipv4_lan.b, bus, bus.path.parent, host_name="lantern")
    try:
        assert "10.77.0.2" in computer.ask("avahi-resolve", "-4", "--name", "lantern-2.local")
        assert "10.77.0.1" in computer.ask("avahi-resolve", "-4", "--name", NAME)
    finally:
        computer.close()


def test_a_computer_of_that_name_which_was_first_keeps_it(ipv4_lan: Lan, bus: Bus) -> None:
    computer = Avahi(ipv4_lan.b, bus, bus.path.parent, host_name="lantern")
    try:
        assert "10.77.0.2" in computer.ask("avahi-resolve", "-4", "--name", NAME)
        late = device(ipv4_lan, ipv4_lan.a)
        late.event("announced")
        with pytest.raises(AssertionError, match="Nothing that fits"):
            late.wait(lambda facts: facts["event"] == "short", timeout_s=3.0)
        assert "10.77.0.2" in computer.ask("avahi-resolve", "-4", "--name", NAME)
    finally:
        computer.close()


def test_it_follows_a_new_address(ipv4_lan: Lan) -> None:
    first = device(ipv4_lan, ipv4_lan.a)
    first.event("short")
    ipv4_lan.remove(ipv4_lan.a, "10.77.0.1/24")
    ipv4_lan.add(ipv4_lan.a, "10.77.0.9/24")
    follower = ipv4_lan.node(ipv4_lan.b, "follow", "--host", NAME)
    follower.wait(lambda facts: [a for a in facts["addresses"] if ":" not in a] == ["10.77.0.9"])


def test_a_network_of_link_local_ipv6_is_enough(lan: Lan) -> None:
    first = device(lan, lan.a)
    assert first.event("short")["name"] == NAME
    [address] = addresses(lan, lan.b)
    assert address.startswith("fe80::")


def test_a_resolver_that_knows_no_mdns_is_answered_alone(ipv4_lan: Lan) -> None:
    device(ipv4_lan, ipv4_lan.a).event("short")
    answer = ipv4_lan.node(ipv4_lan.b, "legacy", "--host", NAME).event("answered")
    assert answer["id"] == 4711
    assert ["A", 10, False, "10.77.0.1"] in answer["records"]


def test_three_devices_in_one_network_have_it_once(ipv4_lan: Lan) -> None:
    del ipv4_lan
    with open_lan(3) as lan:
        for i, machine in enumerate(lan.machines, start=1):
            lan.add(machine, f"10.77.0.{i}/24")
        nodes = [device(lan, machine, digit) for machine, digit in zip(lan.machines, "abc", strict=True)]
        for node in nodes:
            node.event("announced")
        found = lan.node(lan.b, "follow", "--host", NAME).wait(lambda facts: facts["event"] == "settled")
        assert len([address for address in found["addresses"] if ":" not in address]) == 1

"""Announcer and browser over real multicast, in two network namespaces."""

from __future__ import annotations

import json
import os
from functools import partial
from typing import Any

import psutil
import pytest

from tests.lan import Facts, Lan

_NUM_FIRST_QUESTIONS = 4  # of python-zeroconf 0.154, within 14 s


def test_an_announced_device_is_found_with_its_address(ipv4_lan: Lan) -> None:
    ipv4_lan.node(ipv4_lan.a, "announce").event("announced")
    device = ipv4_lan.node(ipv4_lan.b, "find_first").event("found")["device"]
    assert device["name"] == "Küche"
    assert device["base_url"] == "http://10.77.0.1:8080/v1"
    assert device["host"] == "lantern-00112233.local."
    assert (device["id"], device["version"], device["num_models"]) == ("00112233aabbccdd", "1.2.3", 2)


def test_a_device_is_followed_until_its_goodbye(ipv4_lan: Lan) -> None:
    device = ipv4_lan.node(ipv4_lan.a, "announce")
    watcher = ipv4_lan.node(ipv4_lan.b, "watch")
    watcher.devices(lambda found: any(d["state"] == "ready" for d in found))
    device.tell("state draining")
    watcher.devices(lambda found: any(d["state"] == "draining" for d in found))
    device.event("announced")
    device.tell("stop")
    watcher.devices(lambda found: not found)  # long before its records expire
    device.event("stopped")


def test_a_device_says_that_it_takes_no_more_requests_before_its_goodbye(ipv4_lan: Lan) -> None:
    device = ipv4_lan.node(ipv4_lan.a, "announce")
    watcher = ipv4_lan.node(ipv4_lan.b, "watch")
    watcher.devices(lambda found: any(d["state"] == "ready" for d in found))
    device.event("announced")
    device.tell("stop")
    watcher.devices(lambda found: any(d["state"] == "draining" for d in found))
    watcher.devices(lambda found: not found)


def test_a_device_that_was_killed_is_gone_when_its_time_to_live_is_over(ipv4_lan: Lan) -> None:
    device = ipv4_lan.node(ipv4_lan.a, "announce", "--ttl", "4")
    watcher = ipv4_lan.node(ipv4_lan.b, "watch")
    watcher.devices(lambda found: len(found) == 1)
    device.event("announced")
    device.close()  # kill -9
    watcher.devices(lambda found: not found)
    ipv4_lan.node(ipv4_lan.a, "announce", "--ttl", "4")
    watcher.devices(lambda found: len(found) == 1)


def test_a_device_that_lives_longer_than_its_records_stays(ipv4_lan: Lan) -> None:
    ipv4_lan.node(ipv4_lan.a, "announce", "--ttl", "1").event("announced")
    watcher = ipv4_lan.node(ipv4_lan.b, "watch")
    watcher.devices(lambda found: len(found) == 1)
    with pytest.raises(AssertionError, match="Nothing that fits"):
        watcher.devices(lambda found: not found, timeout_s=6.0)


def test_a_flood_of_records_costs_little_memory(ipv4_lan: Lan) -> None:
    """LANTERN_FLOOD_S=60 is what CI runs; 2,000 packets a second, and every one names somebody new."""
    seconds = os.environ.get("LANTERN_FLOOD_S", "5")
    device = ipv4_lan.node(ipv4_lan.a, "announce")
    device.event("announced")
    watcher = ipv4_lan.node(ipv4_lan.b, "watch")
    watcher.devices(lambda found: len(found) == 1)
    before = [psutil.Process(node.pid).memory_info().rss for node in (device, watcher)]
    flooded = ipv4_lan.node(ipv4_lan.b, "flood", "--seconds", seconds).event("flooded", timeout_s=float(seconds) + 30)
    after = [psutil.Process(node.pid).memory_info().rss for node in (device, watcher)]
    assert flooded["num_sent"] >= 0.9 * 2000 * float(seconds)
    grown_mib = {who: (now - then) >> 20 for who, now, then in zip(("device", "watcher"), after, before, strict=True)}
    assert max(grown_mib.values()) < 32, grown_mib
    device.tell("state draining")
    watcher.devices(lambda found: any(d["name"] == "Küche" and d["state"] == "draining" for d in found))


def test_a_new_address_takes_the_place_of_the_former_one(ipv4_lan: Lan) -> None:
    ipv4_lan.node(ipv4_lan.a, "announce").event("announced")
    watcher = ipv4_lan.node(ipv4_lan.b, "watch")
    watcher.devices(lambda found: any("10.77.0.1" in d["addresses"] for d in found))
    ipv4_lan.remove(ipv4_lan.a, "10.77.0.1/24")
    ipv4_lan.add(ipv4_lan.a, "10.77.0.9/24")
    [device] = watcher.devices(partial(_is_at, "10.77.0.9"))
    assert device["base_url"] == "http://10.77.0.9:8080/v1"


def test_an_address_that_comes_back_at_once_is_noticed(ipv4_lan: Lan) -> None:
    """While it is still in everybody's cache, as one that has expired."""
    ipv4_lan.node(ipv4_lan.a, "announce").event("announced")
    watcher = ipv4_lan.node(ipv4_lan.b, "watch")
    watcher.devices(partial(_is_at, "10.77.0.1"))
    for former, new in (("10.77.0.1", "10.77.0.9"), ("10.77.0.9", "10.77.0.1")):
        ipv4_lan.remove(ipv4_lan.a, f"{former}/24")
        ipv4_lan.add(ipv4_lan.a, f"{new}/24")
        watcher.devices(partial(_is_at, new))


def test_one_address_of_two_that_is_gone_is_no_longer_led_to(ipv4_lan: Lan) -> None:
    ipv4_lan.add(ipv4_lan.a, "10.78.0.1/24")
    ipv4_lan.node(ipv4_lan.a, "announce").event("announced")
    watcher = ipv4_lan.node(ipv4_lan.b, "watch")
    watcher.devices(partial(_is_at, "10.77.0.1", "10.78.0.1"))
    ipv4_lan.remove(ipv4_lan.a, "10.78.0.1/24")
    watcher.devices(partial(_is_at, "10.77.0.1"))


def test_a_device_without_a_network_announces_when_it_gets_one(lan: Lan) -> None:
    lan.link_down(lan.a)
    device = lan.node(lan.a, "announce")
    device.event("started")
    lan.add(lan.b, "10.77.0.2/24")
    watcher = lan.node(lan.b, "watch")
    watcher.event("watching")
    lan.link_up(lan.a)
    lan.add(lan.a, "10.77.0.1/24")
    [found] = watcher.devices(lambda found: len(found) == 1)
    assert "10.77.0.1" in found["addresses"]


def test_a_network_of_link_local_ipv6_is_enough_for_a_working_url(lan: Lan) -> None:
    lan.node(lan.a, "announce")
    lan.node(lan.a, "serve").event("serving")
    found = _first_device(lan)
    assert found["base_url"].startswith("http://[fe80::")
    assert found["base_url"].endswith("%eth0]:8080/v1")
    assert lan.node(lan.b, "get", "--url", f"{found['base_url']}/models").event("got")["status"] == 200


def test_a_routed_ipv6_address_is_better_than_a_link_local_one(lan: Lan) -> None:
    lan.add(lan.a, "fd00:77::1/64")
    lan.add(lan.b, "fd00:77::2/64")
    lan.node(lan.a, "announce")
    lan.node(lan.a, "serve").event("serving")
    found = _first_device(lan)
    assert found["base_url"] == "http://[fd00:77::1]:8080/v1"
    assert lan.node(lan.b, "get", "--url", f"{found['base_url']}/models").event("got")["status"] == 200


def test_two_devices_with_one_name_are_both_found(ipv4_lan: Lan) -> None:
    ipv4_lan.node(ipv4_lan.a, "announce", "--id", "aaaaaaaaaaaaaaaa").event("announced")
    second = ipv4_lan.node(ipv4_lan.b, "announce", "--id", "bbbbbbbbbbbbbbbb")
    watcher = ipv4_lan.node(ipv4_lan.b, "watch")
    assert second.event("announced")["name"] == "Küche-2"
    found = watcher.devices(lambda found: len(found) == 2)
    assert {(d["name"], d["id"][:1]) for d in found} == {("Küche", "a"), ("Küche-2", "b")}


def test_two_devices_with_one_name_whose_networks_are_joined_are_both_found(ipv4_lan: Lan) -> None:
    ipv4_lan.part(ipv4_lan.a)
    first = ipv4_lan.node(ipv4_lan.a, "announce", "--id", "aaaaaaaaaaaaaaaa")
    second = ipv4_lan.node(ipv4_lan.b, "announce", "--id", "bbbbbbbbbbbbbbbb")
    assert first.event("announced")["name"] == second.event("announced")["name"] == "Küche"
    ipv4_lan.plug_in(ipv4_lan.a)
    watcher = ipv4_lan.node(ipv4_lan.a, "watch")
    found = watcher.devices(lambda found: len({d["id"] for d in found}) == 2 and len({d["name"] for d in found}) == 2)
    kept = next(d for d in found if d["id"].startswith("a"))
    assert kept["name"] == "Küche"


def test_a_device_whose_name_is_claimed_later_stays_reachable(ipv4_lan: Lan) -> None:
    ipv4_lan.node(ipv4_lan.a, "announce").event("announced")
    watcher = ipv4_lan.node(ipv4_lan.b, "watch")
    watcher.devices(lambda found: len(found) == 1)
    ipv4_lan.node(ipv4_lan.b, "claim", "--id", "ffffffffffffffff", "--addresses", "10.77.0.2").event("claiming")
    found = watcher.devices(lambda found: {"00112233aabbccdd", "ffffffffffffffff"} <= {d["id"] for d in found})
    renamed = next(d for d in found if d["id"] == "00112233aabbccdd")
    assert renamed["name"].startswith("Küche-")
    assert renamed["base_url"] == "http://10.77.0.1:8080/v1"


def test_whoever_keeps_a_disputed_name_is_found_under_it(ipv4_lan: Lan) -> None:
    watcher = ipv4_lan.node(ipv4_lan.b, "watch")
    watcher.event("watching")
    quarrel = ipv4_lan.node(ipv4_lan.a, "dispute")
    quarrel.event("settled")
    watcher.devices(
        lambda found: (
            {(d["name"], d["host"], d["id"][0]) for d in found}
            == {("first", "first.local.", "2"), ("second", "second.local.", "3")}
        )
    )


def test_a_device_announces_again_when_another_host_takes_its_name_back(ipv4_lan: Lan) -> None:
    ipv4_lan.node(ipv4_lan.a, "announce").event("announced")
    listener = ipv4_lan.node(ipv4_lan.b, "overhear")
    listener.event("listening")
    ipv4_lan.node(ipv4_lan.b, "say_goodbye")
    listener.event("goodbye")
    assert listener.event("pointer")["to"].startswith("Küche.")


def test_a_browser_asks_again_for_what_a_goodbye_took_away(ipv4_lan: Lan) -> None:
    ipv4_lan.node(ipv4_lan.a, "claim", "--addresses", "10.77.0.1").event("claiming")
    listener = ipv4_lan.node(ipv4_lan.a, "overhear")
    listener.event("listening")
    watcher = ipv4_lan.node(ipv4_lan.b, "watch")
    watcher.devices(lambda found: len(found) == 1)
    for _ in range(_NUM_FIRST_QUESTIONS):
        listener.event("question")
    ipv4_lan.node(ipv4_lan.b, "say_goodbye")
    watcher.devices(lambda found: not found)
    listener.event("question")
    watcher.devices(lambda found: len(found) == 1)


def test_rogue_records_neither_break_the_browser_nor_are_believed(ipv4_lan: Lan) -> None:
    watcher = ipv4_lan.node(ipv4_lan.b, "watch")
    ipv4_lan.node(ipv4_lan.b, "rogue", "--addresses", "127.0.0.1,0.0.0.0,224.0.0.1,10.77.0.2").event("lying")
    ipv4_lan.node(ipv4_lan.a, "announce").event("announced")
    found = watcher.devices(lambda found: len(found) == 4 and any(d["name"] == "Küche" for d in found))
    for liar in (device for device in found if device["name"] != "Küche"):
        assert liar["base_url"] == "http://10.77.0.2:9/v1"
        assert liar["addresses"] == ["10.77.0.2"]
        assert (liar["id"], liar["version"], liar["num_models"]) == (None, None, 0)
        assert liar["name"].isprintable()


def test_the_web_type_the_subtype_and_the_alias_lead_to_the_same_place(ipv4_lan: Lan) -> None:
    ipv4_lan.node(ipv4_lan.a, "announce", "--alias").event("announced")
    types = ("_lantern._tcp", "_http._tcp", "_openai._sub._http._tcp", "_openai._tcp")
    browser = ipv4_lan.node(ipv4_lan.b, "resolve", "--types", ",".join(types))
    resolved = {browser.event("resolved")["type"]: () for _ in types}
    assert set(resolved) == {f"{type_}.local." for type_ in types}


def test_records_that_only_one_machine_may_have_carry_the_cache_flush_bit(ipv4_lan: Lan) -> None:
    listener = ipv4_lan.node(ipv4_lan.b, "capture")
    listener.event("capturing")
    ipv4_lan.node(ipv4_lan.a, "announce")
    records = listener.event("captured")["records"]
    flushing = {kind for kind, flush in records if flush}
    assert {"SRV", "TXT", "A"} <= flushing
    assert ["PTR", False] in records
    assert ["PTR", True] not in records


def _is_at(*args: Any) -> bool:
    """Tell if the one device found has these IPv4 addresses and no others."""
    *addresses, found = args
    return [[one for one in d["addresses"] if ":" not in one] for d in found] == [addresses]


def _first_device(lan: Lan) -> Facts:
    [device] = lan.node(lan.b, "watch").devices(lambda found: len(found) == 1)
    return device


def test_the_commands_print_what_is_there(ipv4_lan: Lan) -> None:
    ipv4_lan.node(ipv4_lan.a, "announce").event("announced")
    listed = ipv4_lan.command(ipv4_lan.b, "discover", "--json", "--timeout", "2")
    [device] = json.loads(listed.stdout)
    assert (listed.returncode, device["name"], device["answer"]) == (0, "Küche", "no answer")
    found = ipv4_lan.command(ipv4_lan.b, "url", "--device", "küche")
    assert (found.returncode, found.stdout) == (0, "http://10.77.0.1:8080/v1\n")
    assert "it is named 'küche'" in found.stderr


def test_the_commands_say_that_nothing_was_found(ipv4_lan: Lan) -> None:
    listed = ipv4_lan.command(ipv4_lan.b, "discover", "--json", "--timeout", "0.5")
    assert (listed.returncode, listed.stdout) == (4, "[]\n")
    assert listed.stderr.startswith("No device was found on the local network within 0.5 s")
    asked = ipv4_lan.command(ipv4_lan.b, "chat", "--timeout", "0.5", "Hello")
    assert (asked.returncode, asked.stdout) == (4, "")
    assert asked.stderr.startswith("No device was found on the local network")


def test_a_machine_without_a_network_says_so(lan: Lan) -> None:
    lan.link_down(lan.b)
    asked = lan.command(lan.b, "url")
    assert (asked.returncode, asked.stderr) == (
        4,
        "This machine has no network to search for devices; connect it, or give a URL.",
    )

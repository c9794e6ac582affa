"""A cache's answers after scripted packets: two hosts with one name, of which one gives way."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest
import zeroconf
from hypothesis import given, settings
from hypothesis import strategies as st
from zeroconf import DNSCache, DNSIncoming, DNSOutgoing, DNSPointer  # type: ignore[attr-defined]
from zeroconf._handlers.record_manager import RecordManager
from zeroconf.asyncio import AsyncServiceInfo

from appliance.discovery.claims import drop_expired_claims, live_claims, live_names, question_for_names
from appliance.discovery.record import SERVICE_TYPE

_NAME = f"kitchen.{SERVICE_TYPE}"
_RESPONSE = 0x8400
_HOSTS = ("a", "b")


class Script:
    """A cache, and the packets that it receives; times are seconds before now."""

    def __init__(self) -> None:
        self.cache = DNSCache()
        network = SimpleNamespace(cache=self.cache, async_notify_all=lambda: None)
        self._manager = RecordManager(network)  # type: ignore[arg-type]
        self._now_ms = zeroconf.current_time_millis()
        self._network = network

    def announce(self, host: str, *, before_s: float) -> None:
        info = _info(host)
        out = DNSOutgoing(_RESPONSE)
        for record in (info.dns_pointer(), info.dns_service(), info.dns_text(), *info.dns_addresses()):
            out.add_answer_at_time(record, 0)
        self._receive(out, before_s)

    def say_goodbye(self, *, before_s: float) -> None:
        out = DNSOutgoing(_RESPONSE)
        out.add_answer_at_time(DNSPointer(SERVICE_TYPE, 12, 1, 0, _NAME), 0)
        self._receive(out, before_s)

    def resolved(self) -> tuple[str, bytes | None] | None:
        """Resolve the name from the cache: its host and its id, if both are there."""
        drop_expired_claims(self.cache, _NAME)
        info = AsyncServiceInfo(SERVICE_TYPE, _NAME)
        if not info.load_from_cache(self._network):  # type: ignore[arg-type]
            return None
        return info.server or "", info.properties.get(b"id")

    def _receive(self, out: DNSOutgoing, before_s: float) -> None:
        for packet in out.packets():
            self._manager.async_updates_from_response(DNSIncoming(packet, now=self._now_ms - before_s * 1000))


def _info(host: str) -> AsyncServiceInfo:
    return AsyncServiceInfo(
        SERVICE_TYPE,
        _NAME,
        port=8080,
        properties={"id": host * 16},
        server=f"{host}.local.",
        addresses=[bytes([10, 77, 0, ord(host)])],
    )


@settings(deadline=None)
@given(st.lists(st.sampled_from(_HOSTS), min_size=1, max_size=6))
def test_the_host_that_spoke_last_is_found_however_often_the_name_was_disputed(speakers: list[str]) -> None:
    script = Script()
    for number, host in enumerate(speakers):
        script.announce(host, before_s=2.0 * (len(speakers) - number))
    last = speakers[-1]
    assert script.resolved() == (f"{last}.local.", last.encode() * 16)
    assert live_claims(script.cache, _NAME) == {(f"{last}.local.", 8080)}


def test_both_claims_live_for_the_second_in_which_caches_keep_what_was_flushed() -> None:
    script = Script()
    script.announce("a", before_s=2.0)
    script.announce("b", before_s=0.1)
    assert live_claims(script.cache, _NAME) == {("a.local.", 8080), ("b.local.", 8080)}


@pytest.mark.parametrize("host", _HOSTS)
def test_a_goodbye_takes_the_shared_pointer_and_the_next_announcement_brings_it_back(host: str) -> None:
    script = Script()
    for other, before_s in zip(_HOSTS, itertools.count(9.0, -2.0), strict=False):
        script.announce(other, before_s=before_s)
    script.say_goodbye(before_s=3.0)
    assert live_names(script.cache, SERVICE_TYPE) == []
    script.announce(host, before_s=2.0)
    assert live_names(script.cache, SERVICE_TYPE) == [_NAME]


def test_a_question_for_names_tells_those_that_are_known() -> None:
    script = Script()
    [empty] = question_for_names(script.cache, SERVICE_TYPE).packets()
    assert DNSIncoming(empty).answers() == []
    script.announce("a", before_s=1.0)
    [asked] = question_for_names(script.cache, SERVICE_TYPE).packets()
    message = DNSIncoming(asked)
    assert [(question.name, question.type, question.unicast) for question in message.questions] == [
        (SERVICE_TYPE, 12, False)
    ]
    assert [answer.alias for answer in message.answers() if isinstance(answer, DNSPointer)] == [_NAME]

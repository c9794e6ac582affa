"""A short host name beside the device's own, such as lantern.local: first come, by probing (RFC 6762, section 8).

python-zeroconf 0.154 neither probes for host names nor answers the probes of others for them (type ANY), so this name
has a small responder of its own, which sends through zeroconf's sockets. A name that another host uses, now or later,
is given up and probed for again. Lives on the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Sequence

from zeroconf import (  # type: ignore[attr-defined]  # missing in the __all__ of 0.154
    DNSAddress,
    DNSIncoming,
    DNSOutgoing,
    DNSQuestion,
    DNSRecord,
)
from zeroconf.asyncio import AsyncServiceInfo

from appliance.background import Lifetime
from appliance.discovery.multicast_tap import MDNS_PORT, MulticastTap
from appliance.discovery.record import SERVICE_TYPE

_LOGGER = logging.getLogger(__name__)

_A, _AAAA, _ANY, _IN = 1, 28, 255, 1  # RFC 1035, RFC 3596
_UNIQUE = 0x8000  # the cache-flush bit, RFC 6762 section 10.2
_QUERY, _RESPONSE = 0x0000, 0x8400
_NUM_PROBES, _PROBE_INTERVAL_S = 3, 0.25  # section 8.1
_TIE_PAUSE_S = 1.0  # section 8.2
_ANNOUNCE_INTERVAL_S = 1.0  # section 8.3
_ANSWER_INTERVAL_S = 1.0  # section 6: a record is not multicast again within a second
_LEGACY_TTL_S = 10  # section 6.7


class Alias(Lifetime):
    """The claim to one host name on one set of links, from probing to goodbye; owned by the announcer."""

    def __init__(
        self,
        label: str,
        addresses: Sequence[str],
        *,
        multicast: tuple[str, ...],
        send: Callable[[DNSOutgoing], None],
        on_change: Callable[[str | None], None],
        ttl_s: int = 120,
        retry_s: float = 60.0,
        settle_s: tuple[float, float] = (1.0, 3.0),
    ) -> None:
        """Claim `label`.local for these addresses.

        Args:
            label: the first part of the name.
            addresses: every address of the device.
            multicast: one address of each link and family, where messages are received.
            send: multicasts a message on every link.
            on_change: called with the name when it is won, and with None when it is lost.
            ttl_s: how long others believe in the name.
            retry_s: how long another host's name is left alone before it is probed for again.
            settle_s: the shortest and the longest pause after a conflict; at random, so that one of two hosts is first.
        """
        self._name = f"{label}.local."
        self._addresses = tuple(addresses)
        self._tap = MulticastTap(multicast, self._name, self._receive)
        self._send = send
        self._on_change = on_change
        self._ttl_s = ttl_s
        self._retry_s = retry_s
        self._settle_s = settle_s
        self._is_held = False
        self._is_probing = False
        self._lost, self._freed = asyncio.Event(), asyncio.Event()
        self._tied = False
        self._answered_s = -math.inf
        self._pending: asyncio.TimerHandle | None = None
        self._own = {socket.inet_pton(socket.AF_INET6 if ":" in a else socket.AF_INET, a) for a in addresses}

    async def _live(self) -> AsyncIterator[None]:
        """Claim the name until the end, then say goodbye to it."""
        task = asyncio.create_task(self._run(), name="alias")
        task.add_done_callback(_report_end)
        try:
            async with self._tap:
                yield
        finally:
            task.cancel()
            await asyncio.wait([task])
            self._release()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(random.uniform(0, _PROBE_INTERVAL_S))  # noqa: S311  # section 8.1
            if not await self._is_free():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._freed.wait(), _TIE_PAUSE_S if self._tied else self._retry_s)
                continue
            self._is_held = True
            _LOGGER.info("This device is also %s", self._name)
            self._on_change(self._name.rstrip("."))
            await self._announce()
            await self._lost.wait()
            self._release()
            _LOGGER.warning("Another host uses %s too: giving it up", self._name)
            await asyncio.sleep(random.uniform(*self._settle_s))  # noqa: S311

    async def _is_free(self) -> bool:
        """Probe; False if another host has the name, or is about to have it."""
        self._lost.clear()
        self._freed.clear()
        self._tied, self._is_probing = False, True
        try:
            for _ in range(_NUM_PROBES):
                self._send(self._probe())
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._lost.wait(), _PROBE_INTERVAL_S)
                    return False
            return True
        finally:
            self._is_probing = False

    async def _announce(self) -> None:
        """Announce twice, unless the name is lost in between."""
        self._send(self._answer(self._records()))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._lost.wait(), _ANNOUNCE_INTERVAL_S)
            return
        self._send(self._answer(self._records()))

    def _release(self) -> None:
        """Give the name up; the goodbye is for our own addresses alone, and flushes nobody else's."""
        self._drop_pending()
        if self._is_held:
            self._is_held = False
            self._send(self._answer([_plain(r, 0) for r in self._records() if isinstance(r, DNSAddress)]))
            self._on_change(None)

    def _receive(self, message: DNSIncoming, port: int, reply: Callable[[bytes], None]) -> None:
        """Take a message in which the name occurs."""
        records = [r for r in message.answers() if isinstance(r, DNSAddress) and r.key == self._name]
        if message.is_response():
            others = [r for r in records if r.address not in self._own]
            if any(r.ttl > 0 for r in others):
                self._lost.set()
            elif others:
                self._freed.set()
            return
        questions = [q for q in message.questions if q.name.lower() == self._name and q.type in {_A, _AAAA, _ANY}]
        if not questions:
            return
        if self._is_held and port != MDNS_PORT:
            reply(self._legacy_answer(message))
        elif self._is_held and not self._is_known(message, records):
            if all(q.unique for q in questions) and not message.num_authorities:  # asked for unicast, section 5.4
                reply(self._answer(self._records()).packets()[0])
            else:
                self._reply_to_all(is_probe=bool(message.num_authorities))
        elif self._is_probing and message.num_authorities and self._loses_to(records):
            self._tied = True
            self._lost.set()

    def _loses_to(self, records: Iterable[DNSAddress]) -> bool:
        """Tell if another host's probe wins: the later one of both sets in order (section 8.2)."""
        theirs = sorted((r.type, r.address) for r in records)
        return theirs > sorted((_type_of(a), a) for a in self._own)

    def _legacy_answer(self, message: DNSIncoming) -> bytes:
        """Return the answer for a resolver that knows no mDNS (section 6.7)."""
        records = [_plain(r, _LEGACY_TTL_S) for r in self._records() if isinstance(r, DNSAddress)]
        out = self._answer(records, id_=message.id)
        for question in message.questions:
            out.add_question(question)
        return out.packets()[0]

    def _is_known(self, message: DNSIncoming, records: Sequence[DNSAddress]) -> bool:
        """Tell if the asker listed all our addresses as known (section 7.1); a probe lists its own instead."""
        return not message.num_authorities and self._own <= {r.address for r in records if r.ttl > self._ttl_s / 2}

    def _reply_to_all(self, *, is_probe: bool) -> None:
        """Multicast the answer; a second after the last one, or soon if another host probes."""
        loop = asyncio.get_running_loop()
        due_s = self._answered_s + (_PROBE_INTERVAL_S if is_probe else _ANSWER_INTERVAL_S)
        if due_s <= loop.time():
            self._multicast_answer()
        elif self._pending is None:
            self._pending = loop.call_at(due_s, self._multicast_answer)

    def _multicast_answer(self) -> None:
        self._drop_pending()
        if self._is_held:
            self._answered_s = asyncio.get_running_loop().time()
            self._send(self._answer(self._records()))

    def _drop_pending(self) -> None:
        if self._pending is not None:
            self._pending.cancel()
            self._pending = None

    def _probe(self) -> DNSOutgoing:
        """Return a question for the name, with the records that we would have.

        Python-zeroconf answers for A and AAAA alone, others for ANY; its `add_authorative_answer` takes pointers only.
        """
        out = DNSOutgoing(_QUERY)
        for kind in (_ANY, _A, _AAAA):
            out.add_question(DNSQuestion(self._name, kind, _IN))
        for record in self._records():
            if isinstance(record, DNSAddress):
                out.authorities.append(_plain(record, self._ttl_s))  # type: ignore[arg-type]
        return out

    def _answer(self, records: Iterable[DNSRecord], *, id_: int = 0) -> DNSOutgoing:
        out = DNSOutgoing(_RESPONSE, multicast=id_ == 0, id_=id_)
        for record in records:
            out.add_answer_at_time(record, 0)
        return out

    def _records(self) -> list[DNSRecord]:
        """Return the addresses, and the statement that there is none of another family."""
        info = AsyncServiceInfo(
            SERVICE_TYPE,
            f"alias.{SERVICE_TYPE}",
            port=0,
            server=self._name,
            parsed_addresses=list(self._addresses),
            host_ttl=self._ttl_s,
        )
        found: list[DNSRecord] = [*info.dns_addresses()]
        nsec = info.dns_address_nsec()
        return found if nsec is None else [*found, nsec]


def _report_end(task: asyncio.Task[None]) -> None:
    """Log the end of the task, which never ends by itself: an operator must know."""
    if not task.cancelled() and (err := task.exception()) is not None:
        _LOGGER.error("The short name is not claimed any more", exc_info=err)


def _type_of(address: bytes) -> int:
    return _A if len(address) == 4 else _AAAA  # bytes of an IPv4 address


def _plain(record: DNSAddress, ttl_s: int) -> DNSAddress:
    """Return the record without the cache-flush bit, for probes, goodbyes and resolvers that are not mDNS."""
    return DNSAddress(record.name, record.type, _IN, ttl_s, record.address)

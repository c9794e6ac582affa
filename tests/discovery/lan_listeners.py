"""Machines of a test network that only listen; parts of `lan_node.py`, each a verb of its command line."""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

from zeroconf import DNSIncoming, DNSPointer  # type: ignore[attr-defined]

from appliance.discovery.interfaces import multicast_addresses
from appliance.discovery.record import SERVICE_TYPE

_TYPES = {1: "A", 12: "PTR", 16: "TXT", 28: "AAAA", 33: "SRV", 47: "NSEC"}


def say(**facts: object) -> None:
    sys.stdout.write(json.dumps(facts | {"at_s": time.monotonic()}) + "\n")
    sys.stdout.flush()


async def capture(_args: argparse.Namespace) -> None:
    """Tell type and cache-flush bit of every record in the first announcement on the wire."""
    announcement: asyncio.Future[list[tuple[str, bool]]] = asyncio.get_running_loop().create_future()

    def take(message: DNSIncoming) -> None:
        if message.is_response() and message.answers() and not announcement.done():
            announcement.set_result([(_TYPES.get(r.type, str(r.type)), r.unique) for r in message.answers()])

    await listen(take)
    say(event="capturing")
    say(event="captured", records=await announcement)


async def overhear(_args: argparse.Namespace) -> None:
    """Tell every question for our type, and every pointer that is announced, without a word."""

    def take(message: DNSIncoming) -> None:
        if message.is_query():
            for question in message.questions:
                if (question.name, question.type) == (SERVICE_TYPE, 12):
                    say(event="question")
            return
        for record in message.answers():
            if isinstance(record, DNSPointer) and record.name == SERVICE_TYPE:
                say(event="pointer" if record.ttl else "goodbye", to=record.alias)

    await listen(take)
    say(event="listening")
    await asyncio.Event().wait()


async def listen(take: Callable[[DNSIncoming], None]) -> None:
    """Pass on every message to the group from now on."""

    class Listener(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
            take(DNSIncoming(data, addr))

    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    receiver.bind(("", 5353))
    [own] = [address for address in await asyncio.to_thread(multicast_addresses) if ":" not in address]
    group = socket.inet_aton("224.0.0.251") + socket.inet_aton(own)
    receiver.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
    await asyncio.get_running_loop().create_datagram_endpoint(Listener, sock=receiver)

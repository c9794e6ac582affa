"""Machines of a test network that are not ours: they lie, dispute, flood, leave, or speak DNS-SD as anybody does.

Parts of `lan_node.py`; each is a verb of its command line.
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import socket
import time
from typing import Any

from zeroconf import (  # type: ignore[attr-defined]
    AddressResolver,
    DNSAddress,
    DNSIncoming,
    DNSOutgoing,
    DNSPointer,
    DNSQuestion,
    ServiceInfo,
    ServiceStateChange,
    Zeroconf,
)
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from appliance.discovery.interfaces import multicast_addresses
from appliance.discovery.record import SERVICE_TYPE
from tests.discovery.lan_listeners import capture, overhear, say

_HOSTILE_TXT = (
    b"",
    b"\x00",
    b"\xff" + b"path=/v1",
    b"\x0epath=/../../etc\x0bmodels=-1e9\x05id=\x1b[\x06ver=\xff\xfe\x09st=\x00\x01\x02\x03\x04\x05",
    (b"\xfe" + b"x=" + b"A" * 252) * 30,
    bytes(range(256)) * 4,
)

_FLOOD_RATE = 2000
_FLAGS_QR_RESPONSE, _FLAGS_AA = 0x8000, 0x0400
_TYPES = {1: "A", 12: "PTR", 16: "TXT", 28: "AAAA", 33: "SRV", 47: "NSEC"}


async def rogue(args: argparse.Namespace) -> None:
    zeroconf = AsyncZeroconf(interfaces=list(await asyncio.to_thread(multicast_addresses)))
    for number, text in enumerate(_HOSTILE_TXT):
        info = ServiceInfo(
            SERVICE_TYPE,
            f"rogue \x7f{number}".replace("\x7f", "\u202e") + f".{SERVICE_TYPE}",
            port=number % 2 and 9,
            properties=text,
            server=f"rogue{number}.local.",
            addresses=[socket.inet_aton(address) for address in args.addresses.split(",")],
        )
        await zeroconf.async_register_service(info, cooperating_responders=True, strict=False)
    say(event="lying")
    await asyncio.Event().wait()


async def claim(args: argparse.Namespace) -> None:
    """Announce a name without probing for it, as a rogue or a machine that joins with its LAN does."""
    zeroconf = AsyncZeroconf(interfaces=list(await asyncio.to_thread(multicast_addresses)))
    info = ServiceInfo(
        SERVICE_TYPE,
        f"{args.name}.{SERVICE_TYPE}",
        port=8080,
        properties={"txtvers": "1", "id": args.id},
        server=f"{args.host}.local.",
        parsed_addresses=args.addresses.split(","),
    )
    await zeroconf.async_register_service(info, cooperating_responders=True)
    say(event="claiming")
    await asyncio.Event().wait()


async def flood(args: argparse.Namespace) -> None:
    """2,000 answers a second, each about names that were never heard of before, some of them hostile."""
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    [own] = [address for address in await asyncio.to_thread(multicast_addresses) if ":" not in address]
    sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(own))
    sender.bind((own, 0))
    say(event="flooding")
    start_s, num_sent = time.monotonic(), 0
    while (elapsed_s := time.monotonic() - start_s) < args.seconds:
        while num_sent < elapsed_s * _FLOOD_RATE:
            sender.sendto(_flood_packet(num_sent), ("224.0.0.251", 5353))
            num_sent += 1
        time.sleep(0.002)
    sender.close()
    say(event="flooded", num_sent=num_sent, took_s=time.monotonic() - start_s)


def _flood_packet(number: int) -> bytes:
    info = ServiceInfo(
        SERVICE_TYPE,
        f"flood {number}.{SERVICE_TYPE}",
        port=number % 65535 + 1,
        properties=_HOSTILE_TXT[number % len(_HOSTILE_TXT)],
        server=f"flood{number}.local.",
        addresses=[bytes([10, 77, number >> 8 & 0xFF, number & 0xFF])],
    )
    out = DNSOutgoing(_FLAGS_QR_RESPONSE | _FLAGS_AA)
    records = (info.dns_pointer(), info.dns_service(), info.dns_text(), *info.dns_addresses())
    for record in records[: 1 + number % 4]:
        out.add_answer_at_time(record, 0)
    return out.packets()[0]


async def dispute(_args: argparse.Namespace) -> None:
    """Two machines answer for one name at once, and one of them gives way; for two names, so that each wins once."""
    zeroconf = AsyncZeroconf(interfaces=list(await asyncio.to_thread(multicast_addresses)))
    names = {"first": f"first.{SERVICE_TYPE}", "second": f"second.{SERVICE_TYPE}"}
    answers = {
        (name, host): ServiceInfo(
            SERVICE_TYPE,
            name,
            port=8080,
            properties={"id": str(end) * 16},
            server=f"{host}.local.",
            addresses=[bytes([10, 77, 0, end])],
        )
        for name in names.values()
        for host, end in (("first", 2), ("second", 3))
    }

    def send(*infos: ServiceInfo) -> None:
        out = DNSOutgoing(_FLAGS_QR_RESPONSE | _FLAGS_AA)
        for info in infos:
            for record in (info.dns_pointer(), info.dns_service(), info.dns_text(), *info.dns_addresses()):
                out.add_answer_at_time(record, 0)
        zeroconf.zeroconf.async_send(out)

    await zeroconf.zeroconf.async_wait_for_start()
    send(*answers.values())
    say(event="disputed")
    await asyncio.sleep(1.3)  # RFC 6762 section 10.2: what is younger than a second stays
    send(answers[names["first"], "first"], answers[names["second"], "second"])
    say(event="settled")
    await asyncio.Event().wait()


async def say_goodbye(args: argparse.Namespace) -> None:
    """Take back the pointer to a name, as a host does that leaves while another one has the name too."""
    zeroconf = AsyncZeroconf(interfaces=list(await asyncio.to_thread(multicast_addresses)))
    await zeroconf.zeroconf.async_wait_for_start()
    out = DNSOutgoing(_FLAGS_QR_RESPONSE | _FLAGS_AA)
    out.add_answer_at_time(DNSPointer(SERVICE_TYPE, 12, 1, 0, f"{args.name}.{SERVICE_TYPE}"), 0)
    zeroconf.zeroconf.async_send(out)
    say(event="left")
    await asyncio.Event().wait()


async def resolve(args: argparse.Namespace) -> None:
    """Resolve an instance of each of several types, as a program that knows nothing of ours does."""
    zeroconf = AsyncZeroconf(interfaces=list(await asyncio.to_thread(multicast_addresses)))
    types = [f"{type_}.local." for type_ in args.types.split(",")]
    resolving: set[asyncio.Task[None]] = set()

    async def look_up(type_: str, name: str) -> None:
        info = AsyncServiceInfo(type_, name)
        if await info.async_request(zeroconf.zeroconf, 3000):
            say(event="resolved", type=type_, name=name, addresses=info.parsed_addresses(), port=info.port)

    def on_change(zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        if state_change is ServiceStateChange.Added:
            resolving.add(asyncio.create_task(look_up(service_type, name)))

    AsyncServiceBrowser(zeroconf.zeroconf, types, handlers=[on_change])
    await asyncio.Event().wait()


async def look_up(args: argparse.Namespace) -> None:
    """Resolve a host name once."""
    zeroconf = AsyncZeroconf(interfaces=list(await asyncio.to_thread(multicast_addresses)))
    resolver = AddressResolver(f"{args.host}.")
    await resolver.async_request(zeroconf.zeroconf, 5000)
    say(event="looked up", addresses=sorted(resolver.parsed_addresses()))
    await zeroconf.async_close()


async def follow(args: argparse.Namespace) -> None:
    """Resolve a host name again and again with an empty cache; `settled` once six answers, one by one, are equal.

    A question without an answer settles nothing: two programs of one machine share the port, and an answer by unicast
    (RFC 6762, section 5.4) reaches one of them.
    """
    interfaces = list(await asyncio.to_thread(multicast_addresses))
    answer, same = list[str](), 0
    while True:
        zeroconf = AsyncZeroconf(interfaces=interfaces)
        resolver = AddressResolver(f"{args.host}.")
        await resolver.async_request(zeroconf.zeroconf, 1000)
        await asyncio.sleep(0.3)  # a second host that answers, too
        found = sorted(str(r) for r in _addresses_in(zeroconf.zeroconf, f"{args.host}."))
        await zeroconf.async_close()
        if found:
            same = same + 1 if found == answer else 1
            answer = found
        say(event="settled" if found and same == 6 else "followed", addresses=found)


def _addresses_in(zeroconf: Zeroconf, host: str) -> set[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    records = zeroconf.cache.entries_with_name(host)
    return {ipaddress.ip_address(r.address) for r in records if isinstance(r, DNSAddress)}


async def ask_all(args: argparse.Namespace) -> None:
    """Ask for a host name by multicast, once."""
    zeroconf = AsyncZeroconf(interfaces=list(await asyncio.to_thread(multicast_addresses)))
    await zeroconf.zeroconf.async_wait_for_start()
    out = DNSOutgoing(0)
    out.add_question(DNSQuestion(f"{args.host}.", 1, 1))
    zeroconf.zeroconf.async_send(out)
    say(event="asked")
    await asyncio.Event().wait()


async def legacy(args: argparse.Namespace) -> None:
    """Ask for a host name as a resolver that knows no multicast DNS, from a port of its own."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[DNSIncoming] = loop.create_future()

    class Listener(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
            if not answer.done():
                answer.set_result(DNSIncoming(data, addr))

    [own] = [address for address in await asyncio.to_thread(multicast_addresses) if ":" not in address]
    transport, _ = await loop.create_datagram_endpoint(Listener, local_addr=(own, 0))
    out = DNSOutgoing(0, multicast=False, id_=4711)
    out.add_question(DNSQuestion(f"{args.host}.", 1, 1))
    transport.sendto(out.packets()[0], ("224.0.0.251", 5353))
    message = await answer
    records = [r for r in message.answers() if isinstance(r, DNSAddress)]
    told = [[_TYPES[r.type], r.ttl, r.unique, str(ipaddress.ip_address(r.address))] for r in records]
    say(event="answered", id=message.id, records=told)
    transport.close()


VERBS = (
    rogue,
    claim,
    flood,
    dispute,
    say_goodbye,
    resolve,
    look_up,
    follow,
    ask_all,
    legacy,
    capture,
    overhear,
)

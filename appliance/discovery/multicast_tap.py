"""The messages to the multicast group of mDNS, as far as a watched name occurs in them; on the event loop.

Its sockets are bound to the group's own address, so that they take no unicast reply away from zeroconf's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, cast

import psutil
from zeroconf import DNSIncoming  # type: ignore[attr-defined]  # missing in the __all__ of 0.154

from appliance.background import Lifetime

_LOGGER = logging.getLogger(__name__)

MDNS_PORT = 5353
_GROUP_4, _GROUP_6 = "224.0.0.251", "ff02::fb"

Receiver = Callable[[DNSIncoming, int, Callable[[bytes], None]], None]
"""Takes a message, the port that it came from, and a function that replies to its sender alone."""


class MulticastTap(Lifetime):
    """Sockets in the group, on the links of these addresses; a link that cannot be joined is left out."""

    def __init__(self, multicast: tuple[str, ...], name: str, receiver: Receiver) -> None:
        """`multicast` has one address of each link and family; only messages with the first label of `name` count."""
        self._multicast = multicast
        label = name.partition(".")[0].encode("ascii").lower()
        self._label = bytes([len(label)]) + label
        self._receiver = receiver

    def take(self, data: bytes, port: int, reply: Callable[[bytes], None]) -> None:
        """Take a datagram; it is parsed only if the label is in it, and dropped if it cannot be."""
        if self._label in data.lower():
            message = DNSIncoming(data)
            if message.valid:
                self._receiver(message, port, reply)

    async def _live(self) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        async with contextlib.AsyncExitStack() as stack:
            for sock in await asyncio.to_thread(lambda: list(_open(self._multicast))):
                transport, _ = await loop.create_datagram_endpoint(lambda: _Protocol(self), sock=sock)
                stack.callback(transport.close)
            yield


class _Protocol(asyncio.DatagramProtocol):
    def __init__(self, tap: MulticastTap) -> None:
        self._tap = tap

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        self._tap.take(data, int(addr[1]), lambda packet: self._transport.sendto(packet, addr))


def _open(multicast: tuple[str, ...]) -> Iterator[socket.socket]:
    """Join the group: once for IPv4, on each link for IPv6, whose group belongs to a link. Blocks."""
    ipv4 = [socket.inet_aton(_GROUP_4) + socket.inet_aton(a) for a in multicast if ":" not in a]
    if ipv4:
        yield from _joined(socket.AF_INET, (_GROUP_4, MDNS_PORT), socket.IP_ADD_MEMBERSHIP, ipv4)
    group = socket.inet_pton(socket.AF_INET6, _GROUP_6)
    for index in _indices({a for a in multicast if ":" in a}):
        join = group + struct.pack("@I", index)
        yield from _joined(socket.AF_INET6, (_GROUP_6, MDNS_PORT, 0, index), socket.IPV6_JOIN_GROUP, [join])


def _joined(
    family: socket.AddressFamily, address: tuple[Any, ...], option: int, joins: list[bytes]
) -> Iterator[socket.socket]:
    level = socket.IPPROTO_IPV6 if family == socket.AF_INET6 else socket.IPPROTO_IP
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(address)
        for join in joins:
            sock.setsockopt(level, option, join)
        sock.setblocking(False)
    except OSError as err:
        sock.close()
        _LOGGER.warning("The short name is not claimed over %s: %s", family.name, err.strerror)
        return
    yield sock


def _indices(addresses: set[str]) -> list[int]:
    """Return the interfaces with these IPv6 addresses."""
    links = psutil.net_if_addrs().items() if addresses else ()
    found = []
    for name, entries in links:
        if addresses & {entry.address.partition("%")[0] for entry in entries}:
            with contextlib.suppress(OSError):  # the link has gone meanwhile
                found.append(socket.if_nametoindex(name))
    return found

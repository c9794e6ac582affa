"""Network interfaces: this machine's reachable addresses, and the links that multicast uses; reads, never changes.

psutil knows the addresses and whether a link is up; the kernel's table tells which IPv6 addresses are usable yet. It
reads a file of /proc: call it on a thread.
"""

from __future__ import annotations

import fnmatch
import ipaddress
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import psutil

from appliance.errors import DiscoveryError

IPAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
IPInterface: TypeAlias = ipaddress.IPv4Interface | ipaddress.IPv6Interface

_VIRTUAL = ["docker*", "podman*", "br-*", "virbr*", "veth*", "cni*", "flannel*", "cali*", "lxc*", "lxd*"]
_VIRTUAL += ["tun*", "tap*", "wg*", "utun*", "tailscale*", "zt*", "vmnet*", "vboxnet*", "awdl*", "llw*"]
_LOOPBACK = ["lo", "lo[0-9]*"]
_FAMILIES = (socket.AF_INET, socket.AF_INET6)
_IF_INET6 = Path("/proc/net/if_inet6")
_NOT_USABLE = 0x40 | 0x20 | 0x08  # tentative, deprecated, duplicate: the flags of linux/if_addr.h


@dataclass(frozen=True, slots=True)
class Reach:
    """The addresses at which the server answers, and those of the links that multicast has to leave by."""

    addresses: tuple[str, ...] = ()
    multicast: tuple[str, ...] = ()


def is_real_interface(name: str) -> bool:
    """Tell if other machines are on this link: not loopback, a container's bridge or a tunnel."""
    return not any(fnmatch.fnmatchcase(name, pattern) for pattern in _LOOPBACK + _VIRTUAL)


def reach(hosts: Sequence[str], *, accept_interface: Callable[[str], bool] = is_real_interface) -> Reach:
    """Return the addresses at which a server bound to `hosts` can be reached now; empty while there is no network.

    Raises:
        DiscoveryError: a host is a name instead of an address.
    """
    bound = [_bound_address(host) for host in hosts]
    addresses: list[str] = []
    multicast: list[str] = []
    for own in _links(accept_interface):
        answering = [item.ip for item in own if any(_answers_at(address, item.ip) for address in bound)]
        if answering:
            addresses += map(str, answering)
            multicast += _senders(own)
    return Reach(tuple(sorted(addresses)), tuple(sorted(multicast)))


def multicast_addresses(*, accept_interface: Callable[[str], bool] = is_real_interface) -> tuple[str, ...]:
    """Return the addresses that a browser asks from."""
    return tuple(sorted(sender for own in _links(accept_interface) for sender in _senders(own)))


def local_networks() -> tuple[IPInterface, ...]:
    """Return every network that this machine has an address in."""
    return tuple(item for own in _links(lambda _name: True) for item in own)


def only_loopback(hosts: Sequence[str]) -> bool:
    """Tell if a server bound to `hosts` can be reached from this machine only."""
    return all(_bound_address(host).is_loopback for host in hosts)


def _bound_address(host: str) -> IPAddress:
    try:
        return ipaddress.ip_address("127.0.0.1" if host == "localhost" else host.partition("%")[0])
    except ValueError:
        raise DiscoveryError(f"Only addresses can be announced, and {host!r} is none; bind to one.") from None


def _answers_at(bound: IPAddress, own: IPAddress) -> bool:
    """Tell if a server bound to `bound` answers at the address; a wildcard covers its own family (IPV6_V6ONLY)."""
    return bound.version == own.version and (bound.is_unspecified or bound == own)


def _links(accept_interface: Callable[[str], bool]) -> Iterator[list[IPInterface]]:
    """Return the usable addresses of each link that is up and accepted."""
    try:
        stats, addresses = psutil.net_if_stats(), psutil.net_if_addrs()
    except (OSError, psutil.Error) as err:
        raise DiscoveryError(f"The addresses of this machine cannot be read: {err}.") from err
    usable = _usable_ipv6()
    for name, entries in addresses.items():
        if name not in stats or not stats[name].isup or not accept_interface(name):
            continue
        own = [_interface(entry.address, entry.netmask) for entry in entries if entry.family in _FAMILIES]
        usable_own = [item for item in own if item.version == 4 or usable is None or item.ip in usable]
        if usable_own:
            yield usable_own


def _interface(address: str, netmask: str | None) -> IPInterface:
    ip = ipaddress.ip_address(address.partition("%")[0])
    prefix = ipaddress.ip_address(netmask.partition("%")[0]) if netmask else None
    num_bits = int(prefix).bit_count() if prefix is not None else ip.max_prefixlen
    return ipaddress.ip_interface(f"{ip}/{num_bits}")


def _senders(own: Sequence[IPInterface]) -> list[str]:
    """Return one address per family and link: every further one would send each packet again."""
    ipv4 = [str(item.ip) for item in own if item.version == 4]
    ipv6 = sorted((item.ip for item in own if item.version == 6), key=lambda ip: not ip.is_link_local)
    return ipv4[:1] + [str(ip) for ip in ipv6[:1]]


def _usable_ipv6() -> frozenset[IPAddress] | None:
    """Return the IPv6 addresses that can be bound by now; None if the system has no such table."""
    try:
        rows = [line.split() for line in _IF_INET6.read_text(encoding="ascii").splitlines()]
    except OSError:
        return None
    return frozenset(ipaddress.IPv6Address(int(row[0], 16)) for row in rows if not int(row[4], 16) & _NOT_USABLE)

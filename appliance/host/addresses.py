"""IP addresses of peers."""

from __future__ import annotations

import ipaddress


def is_loopback(host: str) -> bool:
    """Tell if an address or name is this machine's own; also as IPv6 sockets show IPv4 peers."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)

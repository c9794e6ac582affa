"""Claims to instance names, addresses that hosts announce, and a count of watched names; on the event loop.

zeroconf tells browsers of records that are new in its cache only. When two machines claim one name and one of them
gives way, the cache ends with the other's record, which was not new: whoever looked in between keeps the loser. Nor is
an address new that comes back while the cache has not been cleaned, and nobody is told of one that is only flushed.
"""

from __future__ import annotations

import ipaddress
import itertools
from collections import defaultdict
from collections.abc import Callable
from typing import Any, TypeAlias

import zeroconf
from zeroconf import (  # type: ignore[attr-defined]  # the first five are missing in the __all__ of 0.154
    DNSAddress,
    DNSCache,
    DNSPointer,
    DNSRecord,
    DNSService,
    RecordUpdate,
    RecordUpdateListener,
)
from zeroconf.asyncio import AsyncServiceBrowser

_MAX_NAMES = 1024
_A, _AAAA, _SRV, _IN = 1, 28, 33, 1  # RFC 1035, RFC 3596, RFC 2782

Claim: TypeAlias = tuple[str, int]
"""The host, in lower case, and the port of an SRV record, which also decide who keeps a name."""


class ClaimWatch(RecordUpdateListener):
    """Reports every SRV record that is received, our own echoes among them, and all addresses of a host by family."""

    def __init__(
        self,
        on_claim: Callable[[str, Claim], None],
        on_addresses: Callable[[str, set[str]], None] = lambda _host, _addresses: None,
    ) -> None:
        self._on_claim = on_claim
        self._on_addresses = on_addresses

    def async_update_records(self, zc: zeroconf.Zeroconf, now: float, records: list[RecordUpdate]) -> None:
        """Take a batch of records, which is one message; called by zeroconf."""
        addresses: defaultdict[tuple[str, int], set[str]] = defaultdict(set)
        for record in (update.new for update in records if not update.new.is_expired(now)):
            if isinstance(record, DNSService):
                self._on_claim(record.key, (record.server_key, record.port))
            elif isinstance(record, DNSAddress):
                addresses[record.key, record.type].add(str(ipaddress.ip_address(record.address)))
        for (host, _family), found in addresses.items():
            self._on_addresses(host, found)


class BoundedBrowser(AsyncServiceBrowser):
    """A browser that listens to so many names and no more.

    zeroconf 0.154 bounds its cache, and not the browser's plan of when to ask for each name again: 2,000 new names a
    second took 42 MiB in a minute.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._names: set[str] = set()
        super().__init__(*args, **kwargs)

    def async_update_records(self, zc: zeroconf.Zeroconf, now: float, records: list[RecordUpdate]) -> None:
        """Take a batch of records; called by zeroconf."""
        super().async_update_records(zc, now, [update for update in records if self._admits(update.new, now)])

    def _admits(self, record: DNSRecord, now: float) -> bool:
        if not isinstance(record, DNSPointer) or record.key not in self.types:
            return True
        name = record.alias.lower()
        if record.is_expired(now):
            self._names.discard(name)
        elif len(self._names) < _MAX_NAMES:
            self._names.add(name)
        else:
            return name in self._names
        return True


def drop_expired_claims(cache: DNSCache, name: str) -> None:
    """Remove what was flushed of a name and its host.

    zeroconf 0.154 resolves with the latest record of a name, lets a flush give addresses that have expired another
    second, and cleans up every 10 s.
    """
    now = zeroconf.current_time_millis()
    claims = cache.async_all_by_details(name.lower(), _SRV, _IN)
    hosts = {claim.server_key for claim in claims if isinstance(claim, DNSService)}
    of_hosts = (cache.async_all_by_details(host, kind, _IN) for host in hosts for kind in (_A, _AAAA))
    records = itertools.chain(claims, *of_hosts)
    cache.async_remove_records([record for record in records if record.is_expired(now)])


def is_claimed(cache: DNSCache, name: str) -> bool:
    """Tell if another host's claim to the name has not expired."""
    now = zeroconf.current_time_millis()
    return any(not claim.is_expired(now) for claim in cache.async_all_by_details(name.lower(), _SRV, _IN))

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
from zeroconf import (  # type: ignore[attr-defined]  # those of DNS are missing in the __all__ of 0.154
    DNSAddress,
    DNSCache,
    DNSOutgoing,
    DNSPointer,
    DNSQuestion,
    DNSRecord,
    DNSService,
    RecordUpdate,
    RecordUpdateListener,
)
from zeroconf.asyncio import AsyncServiceBrowser

_MAX_NAMES = 1024
_A, _AAAA, _PTR, _TXT, _SRV, _IN = 1, 28, 12, 16, 33, 1  # RFC 1035, RFC 3596, RFC 2782
_FLAGS_QUERY = 0

Claim: TypeAlias = tuple[str, int]
"""The host, in lower case, and the port of an SRV record, which also decide who keeps a name."""


class ClaimWatch(RecordUpdateListener):
    """Reports every SRV record that is received, our own echoes among them, and all addresses of a host by family.

    A goodbye is reported by the instance name, in lower case, to which the pointer record led.
    """

    def __init__(
        self,
        on_claim: Callable[[str, Claim], None],
        on_addresses: Callable[[str, set[str]], None] = lambda _host, _addresses: None,
        on_goodbye: Callable[[str], None] = lambda _name: None,
    ) -> None:
        self._on_claim = on_claim
        self._on_addresses = on_addresses
        self._on_goodbye = on_goodbye

    def async_update_records(self, zc: zeroconf.Zeroconf, now: float, records: list[RecordUpdate]) -> None:
        """Take a batch of records, which is one message; called by zeroconf."""
        addresses: defaultdict[tuple[str, int], set[str]] = defaultdict(set)
        for record in (update.new for update in records):
            if record.is_expired(now):
                if isinstance(record, DNSPointer) and record.ttl == 0:
                    self._on_goodbye(record.alias.lower())
            elif isinstance(record, DNSService):
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

    zeroconf 0.154 resolves with the record of a name that was the last to be new. If that one is flushed, it hides the
    TXT of the host that kept the name, which nobody then asks for, since it is known. Addresses that have expired get
    another second from a flush. zeroconf cleans up every 10 s.
    """
    now = zeroconf.current_time_millis()
    claims = cache.async_all_by_details(name.lower(), _SRV, _IN)
    texts = cache.async_all_by_details(name.lower(), _TXT, _IN)
    hosts = {claim.server_key for claim in claims if isinstance(claim, DNSService)}
    of_hosts = (cache.async_all_by_details(host, kind, _IN) for host in hosts for kind in (_A, _AAAA))
    records = itertools.chain(claims, texts, *of_hosts)
    cache.async_remove_records([record for record in records if record.is_expired(now)])


def live_claims(cache: DNSCache, name: str) -> set[Claim]:
    """Return the claims to a name that have not expired."""
    now = zeroconf.current_time_millis()
    claims = cache.async_all_by_details(name.lower(), _SRV, _IN)
    return {(c.server_key, c.port) for c in claims if isinstance(c, DNSService) and not c.is_expired(now)}


def live_names(cache: DNSCache, service_type: str) -> list[str]:
    """Return the instance names of a type that were announced and not taken back, as many as a browser listens to."""
    now = zeroconf.current_time_millis()
    pointers = cache.async_all_by_details(service_type, _PTR, _IN)[:_MAX_NAMES]
    return [pointer.alias for pointer in pointers if isinstance(pointer, DNSPointer) and not pointer.is_expired(now)]


def question_for_names(cache: DNSCache, service_type: str) -> DNSOutgoing:
    """Return a question for the instance names of a type; those that are known are named in it, and keep silent."""
    now = zeroconf.current_time_millis()
    message = DNSOutgoing(_FLAGS_QUERY)
    message.add_question(DNSQuestion(service_type, _PTR, _IN))
    for pointer in cache.async_all_by_details(service_type, _PTR, _IN):
        if not pointer.is_stale(now):
            message.add_answer_at_time(pointer, now)
    return message

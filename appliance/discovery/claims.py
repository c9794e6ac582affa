"""Who claims an instance name, and how many names are listened to at all; lives on the event loop.

zeroconf tells browsers of records that are new in its cache only. When two machines claim one name and one of them
gives way, the cache ends with the other's record, which was not new: whoever looked in between keeps the loser.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import zeroconf
from zeroconf import (  # type: ignore[attr-defined]  # the first four are missing in the __all__ of 0.154
    DNSCache,
    DNSPointer,
    DNSRecord,
    DNSService,
    RecordUpdate,
    RecordUpdateListener,
)
from zeroconf.asyncio import AsyncServiceBrowser

_MAX_NAMES = 1024
_SRV, _IN = 33, 1  # RFC 2782, RFC 1035

Claim: TypeAlias = tuple[str, int]
"""The host, in lower case, and the port of an SRV record, which also decide who keeps a name."""


class ClaimWatch(RecordUpdateListener):
    """Reports every SRV record that is received, our own echoes among them."""

    def __init__(self, on_claim: Callable[[str, Claim], None]) -> None:
        self._on_claim = on_claim

    def async_update_records(self, zc: zeroconf.Zeroconf, now: float, records: list[RecordUpdate]) -> None:
        """Called by zeroconf for every batch of records."""
        for update in records:
            record = update.new
            if isinstance(record, DNSService) and not record.is_expired(now):
                self._on_claim(record.key, (record.server_key, record.port))


class BoundedBrowser(AsyncServiceBrowser):
    """A browser that listens to so many names and no more.

    zeroconf 0.154 bounds its cache, and not the browser's plan of when to ask for each name again: 2,000 new names a
    second took 42 MiB in a minute.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._names: set[str] = set()
        super().__init__(*args, **kwargs)

    def async_update_records(self, zc: zeroconf.Zeroconf, now: float, records: list[RecordUpdate]) -> None:
        """Called by zeroconf for every batch of records."""
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
    """Remove what was flushed: zeroconf 0.154 resolves with the latest record of a name, and cleans up every 10 s."""
    now = zeroconf.current_time_millis()
    claims = cache.async_all_by_details(name.lower(), _SRV, _IN)
    cache.async_remove_records([claim for claim in claims if claim.is_expired(now)])


def is_claimed(cache: DNSCache, name: str) -> bool:
    """Whether somebody's word that the name is his has not expired."""
    now = zeroconf.current_time_millis()
    return any(not claim.is_expired(now) for claim in cache.async_all_by_details(name.lower(), _SRV, _IN))

"""Who claims an instance name: the SRV records that come in, refreshed ones among them; lives on the event loop.

zeroconf tells browsers of records that are new in its cache only. When two machines claim one name and one of them
gives way, the cache ends with the other's record, which was not new: whoever looked in between keeps the loser.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import zeroconf
from zeroconf import (  # type: ignore[attr-defined]  # the first two are missing in the __all__ of 0.154
    DNSCache,
    DNSService,
    RecordUpdate,
    RecordUpdateListener,
)

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


def drop_expired_claims(cache: DNSCache, name: str) -> None:
    """Remove what was flushed: zeroconf 0.154 resolves with the latest record of a name, and cleans up every 10 s."""
    now = zeroconf.current_time_millis()
    claims = cache.async_all_by_details(name.lower(), _SRV, _IN)
    cache.async_remove_records([claim for claim in claims if claim.is_expired(now)])


def is_claimed(cache: DNSCache, name: str) -> bool:
    """Whether somebody's word that the name is his has not expired."""
    now = zeroconf.current_time_millis()
    return any(not claim.is_expired(now) for claim in cache.async_all_by_details(name.lower(), _SRV, _IN))

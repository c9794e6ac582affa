"""What one connection may take: how many there are, and how long each may leave us waiting."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Caps and deadlines. aiohttp 3.14 has none of its own but for idle connections.

    `max_refusals` connections beyond the cap are kept long enough to be told 503 in answer to a request, so that no
    client sees a reset; beyond those an answer is written at once.
    """

    max_connections: int = 512
    max_per_address: int = 256
    max_refusals: int = 128
    head_timeout_s: float = 20.0
    body_idle_s: float = 15.0
    body_total_s: float = 300.0
    write_idle_s: float = 30.0
    keep_alive_s: float = 75.0
    lingering_s: float = 5.0
    evictable_after_s: float = 1.0
    reap_interval_s: float = 0.5


DEFAULT_LIMITS = ConnectionLimits()

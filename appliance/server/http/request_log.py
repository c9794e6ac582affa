"""The last requests, for people who look after the device: ids, routes, statuses, times and counts; no content."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from appliance.server.http.record import RequestRecord

_MOST = 200


@dataclass(frozen=True, slots=True)
class LoggedRequest:
    """One finished request. `status` is "cancelled" if the client left; `at_s` is the time of its end since 1970."""

    id: str
    at_s: int
    method: str
    route: str
    status: str
    duration_ms: int
    key_id: str
    peer: str
    num_prompt_tokens: int
    num_generated_tokens: int


class RequestLog:
    """A ring of the last requests, in memory only; owned by the event loop."""

    def __init__(self, most: int = _MOST) -> None:
        self._requests: deque[LoggedRequest] = deque(maxlen=most)

    def __iter__(self) -> Iterator[LoggedRequest]:
        """Yield the requests, the latest first."""
        return reversed(self._requests)

    def add(self, record: RequestRecord, request_id: str, *, method: str, route: str, status: str, peer: str) -> None:
        """Add a request that is over."""
        self._requests.append(
            LoggedRequest(
                id=request_id,
                at_s=int(time.time()),
                method=method,
                route=route,
                status=status,
                duration_ms=round(1e3 * (time.monotonic() - record.started_s)),
                key_id=record.key_id,
                peer=peer,
                num_prompt_tokens=record.num_prompt_tokens,
                num_generated_tokens=record.num_generated_tokens,
            )
        )

"""The open connections: counted, capped, and checked for those that only wait. Owned by the event loop.

Beyond a cap a connection waits for its request. When the request arrives, the connection that has been silent for
longest gives way to it; if all are at work, the request is refused. So a crowd of stuck connections costs no client
that asks for something.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable

from appliance.background import Lifetime, run_in_background
from appliance.server.http.connection import ConnectionLimits, Counted
from appliance.server.http.refusals import too_many_connections


class Reaper(Lifetime):
    """Counts connections from the start, and while it lives ends those that take too long."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self._limits = limits
        self._served: dict[Counted, None] = {}  # in the order of their arrival
        self._waiting: dict[Counted, None] = {}
        self._num_of_address: Counter[str] = Counter()
        self._is_over = False

    @property
    def num_connections(self) -> int:
        """Connections that are served."""
        return len(self._served)

    def admit(self, connection: Counted) -> bool:
        """Count a new connection; False if it is beyond a cap, and waits for its request or is ended."""
        if self._is_over:
            connection.cut()
            return False
        if not self._is_full(connection.address):
            self._serve(connection)
            return True
        if len(self._waiting) >= self._limits.max_waiting and not self._evict(self._waiting):
            connection.end_with(too_many_connections())
        else:
            self._waiting[connection] = None
        return False

    def admit_request(self, connection: Counted) -> bool:
        """Serve a waiting connection whose request has arrived; False if every connection within the cap is at work."""
        if connection not in self._waiting:
            return False
        if self._is_full(connection.address):
            has_too_many = self._num_of_address[connection.address] >= self._limits.max_per_address
            self._evict(c for c in self._served if not has_too_many or c.address == connection.address)
        if self._is_full(connection.address):
            return False
        del self._waiting[connection]
        self._serve(connection)
        return True

    def forget(self, connection: Counted) -> None:
        """Stop counting a connection that was closed."""
        self._waiting.pop(connection, None)
        if connection in self._served:
            del self._served[connection]
            self._num_of_address[connection.address] -= 1
            if not self._num_of_address[connection.address]:
                del self._num_of_address[connection.address]

    def cut_all(self) -> None:
        """Close the connections that are left, and those that were accepted and have not come here yet."""
        self._is_over = True
        for connection in [*self._served, *self._waiting]:
            connection.cut()

    async def _live(self) -> AsyncIterator[None]:
        async with run_in_background(self._run()):
            yield

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._limits.reap_interval_s)
            for connection in [*self._served, *self._waiting]:
                connection.check(loop.time())

    def _is_full(self, address: str) -> bool:
        limits = self._limits
        return len(self._served) >= limits.max_connections or self._num_of_address[address] >= limits.max_per_address

    def _serve(self, connection: Counted) -> None:
        self._served[connection] = None
        self._num_of_address[connection.address] += 1

    def _evict(self, connections: Iterable[Counted]) -> bool:
        """End the connection that has been silent for longest; False if none is silent."""
        silent = [(since_s, i, c) for i, c in enumerate(connections) if (since_s := c.quiet_since_s) is not None]
        if not silent:
            return False
        longest = min(silent)[2]
        self.forget(longest)
        longest.end_with(too_many_connections())
        return True

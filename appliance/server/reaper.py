"""The connections that are open: counted, capped, and checked for those that only wait. Owned by the event loop.

When a cap is reached the connection that has been silent for longest gives way; where all are at work, the new one is
refused. So a crowd of stuck connections costs its own, and nobody else's.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AbstractAsyncContextManager

from appliance.background import beside
from appliance.server.connection import Counted, too_many_connections
from appliance.server.limits import ConnectionLimits


class Reaper:
    """Counts connections, and ends those that take too long, while `running`."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self._limits = limits
        self._served: dict[Counted, None] = {}  # in the order of their arrival
        self._refused: dict[Counted, None] = {}
        self._num_of_address: Counter[str] = Counter()
        self._is_over = False

    @property
    def num_connections(self) -> int:
        """Connections that are served."""
        return len(self._served)

    def admit(self, connection: Counted) -> bool:
        """Count a new connection; False where it is over a cap and no silent one can give way to it, or all is over."""
        if self._is_over:
            connection.cut()
            return False
        if self._is_full(connection.address):
            self._evict(connection.address)
        if not self._is_full(connection.address):
            self._served[connection] = None
            self._num_of_address[connection.address] += 1
            return True
        if len(self._refused) >= self._limits.max_refusals:
            connection.end_with(too_many_connections())
        else:
            self._refused[connection] = None
        return False

    def forget(self, connection: Counted) -> None:
        """A connection was closed."""
        self._refused.pop(connection, None)
        if connection in self._served:
            del self._served[connection]
            self._num_of_address[connection.address] -= 1
            if not self._num_of_address[connection.address]:
                del self._num_of_address[connection.address]

    def running(self) -> AbstractAsyncContextManager[None]:
        """Check every connection now and then."""
        return beside(self._run())

    def cut_all(self) -> None:
        """Close what is left, and whatever was accepted and has not come here yet."""
        self._is_over = True
        for connection in [*self._served, *self._refused]:
            connection.cut()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._limits.reap_interval_s)
            for connection in [*self._served, *self._refused]:
                connection.check(loop.time())

    def _is_full(self, address: str) -> bool:
        limits = self._limits
        return len(self._served) >= limits.max_connections or self._num_of_address[address] >= limits.max_per_address

    def _evict(self, address: str) -> None:
        """End the longest silent connection, of this address where it is this address that has too many."""
        same_only = self._num_of_address[address] >= self._limits.max_per_address
        latest_s = asyncio.get_running_loop().time() - self._limits.evictable_after_s
        silent = [
            (since_s, i, connection)
            for i, connection in enumerate(self._served)
            if (not same_only or connection.address == address)
            and (since_s := connection.quiet_since_s) is not None
            and since_s < latest_s
        ]
        if silent:
            connection = min(silent)[2]
            self.forget(connection)
            connection.end_with(too_many_connections())

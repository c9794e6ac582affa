"""The board's heat: read now and then, shown to clients, and answered by letting a slot of every model rest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from appliance.background import Lifetime, run_in_background
from appliance.host.thermal import Thermal, read_thermal
from appliance.models import ModelPool


class Heat(Lifetime):
    """Reads the board's state while it lives; owned by the event loop."""

    def __init__(
        self, pool: ModelPool, *, read: Callable[[], Thermal] = read_thermal, interval_s: float = 10.0
    ) -> None:
        """`read` blocks, and runs in a thread."""
        self._pool = pool
        self._read = read
        self._interval_s = interval_s
        self._thermal = Thermal()

    def now(self) -> Thermal:
        """Return the last reading."""
        return self._thermal

    async def _live(self) -> AsyncIterator[None]:
        await self._look()
        async with run_in_background(self._watch()):
            yield

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            await self._look()

    async def _look(self) -> None:
        self._thermal = await asyncio.to_thread(self._read)
        self._pool.limit_slots(int(self._thermal.is_throttled))

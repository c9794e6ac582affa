"""One installed model in the pool."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from appliance.bundle import SignedManifest
from appliance.models.loaded import LoadedModel
from appliance.models.memory import Need


@dataclass(slots=True, eq=False)
class Entry:
    """An installed model, loaded or not; owned by the pool on the event loop.

    Memory is reserved from the begin of a load until the model's thread has ended. `changing` is held during a load and
    an unload, so that a model which is requested while it is unloaded is loaded afterwards. `running` holds its thread.
    """

    bundle: SignedManifest
    needs: tuple[Need, ...]
    model: LoadedModel | None = None
    loading: asyncio.Task[LoadedModel] | None = None
    expiry: asyncio.TimerHandle | None = None
    num_users: int = 0
    last_used_s: float = 0.0
    is_retired: bool = False
    reserved_bytes: int = 0
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)
    running: AsyncExitStack = field(default_factory=AsyncExitStack)

    @property
    def name(self) -> str:
        """Return the id of the model."""
        return self.bundle.name

    @property
    def is_idle(self) -> bool:
        """Return True if it is loaded and no request uses it."""
        return self.model is not None and not self.num_users

    async def start(self, model: LoadedModel, *, num_resting: int) -> None:
        """Start the thread of a model that was loaded."""
        await self.running.enter_async_context(model.thread)
        model.thread.limit_slots(num_resting)
        self.model = model

    async def unload(self, *, drain_s: float = 0.0) -> None:
        """End the thread, and give the memory back."""
        model, self.model = self.model, None
        if self.expiry is not None:
            self.expiry.cancel()
        if model is None:
            return
        async with self.changing:
            await model.thread.drain(drain_s)
            await self.running.aclose()
            self.reserved_bytes = 0

"""One installed model as the pool sees it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from appliance.bundle import Bundle
from appliance.engine.embed_loop import AsyncEmbedder, AsyncReranker
from appliance.engine.loop import AsyncEngine
from appliance.models.loaded import ChatModel, EmbeddingModel, LoadedModel, RerankModel
from appliance.models.memory import Need


@dataclass(slots=True, eq=False)
class Entry:
    """An installed model, loaded or not; owned by the pool on the event loop.

    Memory is reserved from the moment a load begins until the model's thread has ended. `changing` is held while either
    goes on, so that a model which is asked for while it leaves is loaded after it has left.
    """

    bundle: Bundle
    needs: tuple[Need, ...]
    model: LoadedModel | None = None
    loading: asyncio.Task[LoadedModel] | None = None
    expiry: asyncio.TimerHandle | None = None
    num_users: int = 0
    last_used_s: float = 0.0
    is_retired: bool = False
    reserved_bytes: int = 0
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def name(self) -> str:
        """The id of the model."""
        return self.bundle.name

    @property
    def is_idle(self) -> bool:
        """Whether it could be unloaded without taking it from somebody."""
        return self.model is not None and not self.num_users

    def start(self, model: LoadedModel, *, num_resting: int) -> None:
        """It is loaded: start its thread."""
        self.model = model
        if isinstance(model, ChatModel):
            model.engine.start()
            model.engine.rest_slots(num_resting)
        else:
            _texts_of(model).start()

    async def unload(self, *, drain_s: float = 0.0) -> None:
        """End its thread and give its memory back."""
        model, self.model = self.model, None
        if self.expiry is not None:
            self.expiry.cancel()
        if model is None:
            return
        async with self.changing:
            if isinstance(model, ChatModel):
                await model.engine.stop(drain_s=drain_s)
            else:
                await _texts_of(model).stop()
            self.reserved_bytes = 0


def thread_of(model: LoadedModel) -> AsyncEngine | AsyncEmbedder | AsyncReranker:
    """The thread in which it computes."""
    return model.engine if isinstance(model, ChatModel) else _texts_of(model)


def _texts_of(model: EmbeddingModel | RerankModel) -> AsyncEmbedder | AsyncReranker:
    return model.embedder if isinstance(model, EmbeddingModel) else model.reranker

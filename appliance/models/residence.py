"""The models that are in memory: loaded for requests, unloaded when the memory is needed or nobody asks for them.

Owned by the event loop. Loads run in threads and never hold up what is running; one at a time reserves memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from appliance.bundle import Bundle, BundleStore
from appliance.engine.runtime.kept_slots import remove_all
from appliance.errors import BundleError, ConflictError, InsufficientMemoryError, UnavailableError
from appliance.models.catalogue import Catalogue
from appliance.models.entry import Entry
from appliance.models.loaded import EngineSettings, LoadedModel
from appliance.models.loading import Loader
from appliance.models.memory import MARGIN_BYTES, Need

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """Limits of the pool: models to preload, memory, and the time for which an idle model is kept.

    `preload`: models to load at start, "*" for all that fit. `memory_bytes`: what all of them may take together, None
    for what is free at start. `keep_alive_s`: idle seconds before a model is unloaded, 0 for as long as there is room;
    `keep_alive_of_s` the same for single models. `load_wait_s`: how long a request waits for a load. `drain_s`: how
    long running requests have at the end, unless a model failed.
    """

    preload: tuple[str, ...] = ("*",)
    memory_bytes: int | None = None
    keep_alive_s: float = 0.0
    keep_alive_of_s: Mapping[str, float] = field(default_factory=dict)
    load_wait_s: float = 30.0
    drain_s: float = 0.0


class Residence:
    """The loads under way, the loaded models, and those that leave; `catalogue` says which there are."""

    def __init__(
        self,
        catalogue: Catalogue,
        store: BundleStore,
        *,
        cache: Path,
        settings: EngineSettings,
        pool_settings: PoolSettings,
        on_failure: Callable[[BaseException], None],
        free_bytes: Callable[[], int],
        load: Loader,
    ) -> None:
        self._catalogue = catalogue
        self._store = store
        self._cache = cache
        self._settings = settings
        self._pool_settings = pool_settings
        self._on_failure = on_failure
        self._free_bytes = free_bytes
        self._load_model = load
        self._budget_bytes = pool_settings.memory_bytes
        self._retired: set[Entry] = set()
        self._room = asyncio.Lock()
        self._unloads: set[asyncio.Task[None]] = set()
        self._has_failed = False
        self._num_resting = 0

    @property
    def reserved_bytes(self) -> int:
        """The bytes that the loaded models may take together."""
        return sum(entry.reserved_bytes for entry in self._everything())

    async def measure(self) -> None:
        """Set the memory of all models together to what is free now, unless the settings say it."""
        if self._budget_bytes is None:
            self._budget_bytes = max(0, await asyncio.to_thread(self._free_bytes) - MARGIN_BYTES)

    def loaded(self) -> list[LoadedModel]:
        """Return the loaded models, sorted by name."""
        entries = sorted(self._everything(), key=lambda entry: entry.name)
        return [entry.model for entry in entries if entry.model is not None]

    async def free_memory(self, num_bytes: int) -> None:
        """Unload idle models, the least recently used first, until so much memory is free; it may not come to that."""
        async with self._room:
            while await asyncio.to_thread(self._free_bytes) - MARGIN_BYTES < num_bytes:
                idle = [e for e in self._catalogue.entries.values() if e.is_idle]
                if not idle:
                    return
                victim = min(idle, key=lambda e: e.last_used_s)
                _LOGGER.info("the model %s is unloaded to make room for a trial", victim.name)
                await victim.unload()

    def limit_slots(self, num_slots: int) -> None:
        """Let so many slots of every model rest, for a board that is too hot; one always works."""
        self._num_resting = num_slots
        for model in self.loaded():
            model.thread.limit_slots(num_slots)

    @contextlib.asynccontextmanager
    async def held(self, entry: Entry) -> AsyncIterator[LoadedModel]:
        """Load the model if it is not, and keep it until the block is left; raises as `ModelPool.chat` does."""
        entry.num_users += 1
        if entry.expiry is not None:
            entry.expiry.cancel()
        try:
            yield entry.model or await self._wait_for(entry)
        finally:
            entry.num_users -= 1
            self._left(entry)

    def begin(self, entry: Entry, *, evicts: bool) -> asyncio.Task[LoadedModel]:
        """Begin a load, or join the one under way; `evicts` lets it unload idle models."""
        if entry.loading is None:
            entry.loading = asyncio.create_task(self._load(entry, evicts=evicts), name=f"load-{entry.name}")
            entry.loading.add_done_callback(lambda task: task.cancelled() or task.exception())
        return entry.loading

    def retire(self, entry: Entry) -> None:
        """Unload a model that was removed or replaced as soon as nobody uses it."""
        entry.is_retired = True
        self._retired.add(entry)
        if not entry.num_users:
            self._unload_soon(entry)

    async def close(self, *, drain_s: float) -> None:
        """End the loads and unload everything; running requests have this time, unless a model failed."""
        everything = self._everything()
        loads = [entry.loading for entry in everything if entry.loading is not None]
        await asyncio.gather(*loads, return_exceptions=True)
        grace_s = 0.0 if self._has_failed else drain_s
        await asyncio.gather(*(entry.unload(drain_s=grace_s) for entry in everything), *self._unloads)
        self._retired.clear()

    def _everything(self) -> list[Entry]:
        return [*self._catalogue.entries.values(), *self._retired]

    def _left(self, entry: Entry) -> None:
        """Unload a model soon, or start its idle time, once no request uses it."""
        loop = asyncio.get_running_loop()
        entry.last_used_s = loop.time()
        if entry.num_users or entry.model is None:
            return
        keep_s = self._pool_settings.keep_alive_of_s.get(entry.name, self._pool_settings.keep_alive_s)
        if entry.is_retired:
            self._unload_soon(entry)
        elif keep_s:
            entry.expiry = loop.call_later(keep_s, self._unload_soon, entry)

    async def _wait_for(self, entry: Entry) -> LoadedModel:
        load = self.begin(entry, evicts=True)
        try:
            async with asyncio.timeout(self._pool_settings.load_wait_s):
                return await asyncio.shield(load)
        except TimeoutError as err:
            raise UnavailableError(f"the model {entry.name} is still being loaded; try again in a few seconds") from err

    async def _load(self, entry: Entry, *, evicts: bool) -> LoadedModel:
        try:
            async with entry.changing:
                return await self._load_alone(entry, evicts=evicts)
        finally:
            entry.loading = None

    async def _load_alone(self, entry: Entry, *, evicts: bool) -> LoadedModel:
        try:
            async with self._room:
                need = await self._make_room(entry, evicts=evicts)
                entry.reserved_bytes = need.num_bytes
            entry.bundle, model, fault = await asyncio.to_thread(self._open_and_load, entry, need)
        except BaseException as err:
            entry.reserved_bytes = 0
            if isinstance(err, BundleError):
                self._catalogue.refuse(entry, err.message)
            raise
        if fault is not None:
            self._catalogue.damaged[entry.name] = fault
        await entry.start(model, num_resting=self._num_resting)
        return model

    def _open_and_load(self, entry: Entry, need: Need) -> tuple[Bundle, LoadedModel, str | None]:
        """Open and load a model, in a thread; return it, and the fault if an older version had to take its place."""
        fault = None
        try:
            bundle = self._store.open(entry.name)
        except BundleError as err:
            try:
                with self._store.writing():
                    bundle = self._store.rollback(entry.name)
            except (BundleError, ConflictError):  # there is none, or an install is under way that may mend it
                raise err from None
            fault = f"{err.message}; the version before it serves"
            _LOGGER.error("the model %s: %s", entry.name, fault)
        model = self._load_model(bundle, need.settings(self._settings), cache=self._cache, on_failure=self._fail)
        return bundle, model, fault

    async def _make_room(self, entry: Entry, *, evicts: bool) -> Need:
        """Return the best way in which it fits; unload idle models, the least recently used first, until there is one.

        Raises:
            InsufficientMemoryError: it does not fit even alone.
            UnavailableError: it would, but the others are in use, or are not to be unloaded for it.
        """
        while True:
            room = await asyncio.to_thread(self._room_bytes)
            fitting = next((need for need in entry.needs if need.num_bytes <= room), None)
            if fitting is not None:
                return fitting
            least = entry.needs[-1].num_bytes
            needed = f"{entry.name} needs {least >> 20} MiB of memory and {room >> 20} MiB are free"
            if not self.reserved_bytes:
                raise InsufficientMemoryError(
                    f"{needed}; give it fewer slots or a shorter context (engine.slots, engine.context_length)"
                )
            idle = [e for e in self._catalogue.entries.values() if e.is_idle]
            if not (idle and evicts):
                raise UnavailableError(f"{needed}, because other models hold it; try again later")
            victim = min(idle, key=lambda e: e.last_used_s)
            _LOGGER.info("the model %s is unloaded to make room for %s", victim.name, entry.name)
            await victim.unload()

    def _fail(self, err: BaseException) -> None:
        self._has_failed = True
        self._on_failure(err)

    def _room_bytes(self) -> int:
        """Return the bytes that a further model may take: the budget's rest, and no more than is really free."""
        assert self._budget_bytes is not None
        return max(0, min(self._budget_bytes - self.reserved_bytes, self._free_bytes() - MARGIN_BYTES))

    def _unload_soon(self, entry: Entry) -> None:
        task = asyncio.create_task(self._unload(entry))
        self._unloads.add(task)
        task.add_done_callback(self._unloads.discard)

    async def _unload(self, entry: Entry) -> None:
        if entry.loading is not None:
            await asyncio.wait([entry.loading])
        if entry.num_users:
            return
        _LOGGER.info("the model %s is unloaded", entry.name)
        await entry.unload()
        self._retired.discard(entry)
        if entry.is_retired and self._settings.conversations is not None:
            await asyncio.to_thread(remove_all, self._settings.conversations.path / entry.name)

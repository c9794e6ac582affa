"""The installed models: loaded when somebody asks for them, unloaded when the memory is needed or nobody does."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from appliance.background import Lifetime
from appliance.bundle import Bundle, BundleStore, DecoderSpec, SignedManifest
from appliance.bundle.manifest import MODEL_NAME
from appliance.engine.runtime.kept_slots import remove_all
from appliance.engine.runtime.prepacked import form_bytes
from appliance.errors import (
    BundleError,
    ConflictError,
    InsufficientMemoryError,
    InvalidRequestError,
    LanternError,
    ModelNotFoundError,
    UnavailableError,
)
from appliance.host.memory import available_bytes
from appliance.models.entry import Entry
from appliance.models.loaded import ChatModel, EmbeddingModel, EngineSettings, ListedModel, LoadedModel, RerankModel
from appliance.models.loading import Loader, load_model
from appliance.models.memory import MARGIN_BYTES, Need, needs_of

_LOGGER = logging.getLogger(__name__)

_VERBS = {"decoder": "generates text", "encoder": "makes embeddings", "reranker": "ranks documents"}
_Kind = TypeVar("_Kind", ChatModel, EmbeddingModel, RerankModel)


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


class ModelPool(Lifetime):
    """The models of one store; owned by the event loop. Loads run in threads and never hold up what is running."""

    def __init__(
        self,
        store: BundleStore,
        *,
        cache: Path,
        settings: EngineSettings,
        aliases: Mapping[str, str],
        on_failure: Callable[[BaseException], None],
        pool_settings: PoolSettings | None = None,
        free_bytes: Callable[[], int] = available_bytes,
        load: Loader = load_model,
    ) -> None:
        self._store = store
        self._cache = cache
        self._settings = settings
        self._pool_settings = pool_settings or PoolSettings()
        self._configured_aliases = dict(aliases)
        self._aliases: dict[str, str] = {}
        self._on_failure = on_failure
        self._free_bytes = free_bytes
        self._load_model = load
        self._budget_bytes = self._pool_settings.memory_bytes
        self._entries: dict[str, Entry] = {}
        self._retired: set[Entry] = set()
        self._damaged: dict[str, str] = {}
        self._room = asyncio.Lock()
        self._preloads: set[asyncio.Task[None]] = set()
        self._unloads: set[asyncio.Task[None]] = set()
        self._is_ready = False
        self._has_failed = False
        self._num_resting = 0

    @property
    def is_ready(self) -> bool:
        """True once the models of the start are loaded."""
        return self._is_ready

    @property
    def damaged(self) -> Mapping[str, str]:
        """Installed bundles that were refused, each with the reason."""
        return self._damaged

    @property
    def aliases(self) -> Mapping[str, str]:
        """Other names of installed models."""
        return self._aliases

    @property
    def reserved_bytes(self) -> int:
        """The bytes that the loaded models may take together."""
        return sum(e.reserved_bytes for e in [*self._entries.values(), *self._retired])

    def reserved_of(self) -> dict[str, int]:
        """Return the bytes that each model of the store has reserved, by name; 0 for one that is not loaded."""
        return {name: entry.reserved_bytes for name, entry in self._entries.items()}

    async def _live(self) -> AsyncIterator[None]:
        """Load the models of the start; at the end stop every thread, after running requests had their time."""
        try:
            await self._start()
            yield
        finally:
            await self._close(drain_s=0.0 if self._has_failed else self._pool_settings.drain_s)

    async def _start(self) -> None:
        """List the store and load the models of the start; one that cannot be loaded is left out and remembered."""
        if self._budget_bytes is None:
            self._budget_bytes = max(0, await asyncio.to_thread(self._free_bytes) - MARGIN_BYTES)
        await self.refresh()
        for name in sorted(set(self._pool_settings.preload) - {"*"} - set(self._entries)):
            _LOGGER.warning("the model %s was to be loaded at start, but is not installed", name)
        await asyncio.gather(*self._preloads)
        self._is_ready = True

    async def refresh(self) -> None:
        """See what is installed now: models that were removed or replaced leave as soon as nobody uses them."""
        installed, refused = await asyncio.to_thread(_installed, self._store)
        bundles = list(installed.values())
        needs = await asyncio.to_thread(lambda: {b.digest: self._needs_of(b) for b in bundles})
        given = await asyncio.to_thread(self._store.aliases.all)
        self._damaged = refused
        for name, entry in list(self._entries.items()):
            found = installed.get(name)
            if found is not None and found.digest == entry.bundle.digest:
                del installed[name]
                continue
            del self._entries[name]
            self._retire(entry)
        for name, bundle in installed.items():
            self._entries[name] = entry = Entry(bundle, needs[bundle.digest])
            if {"*", name} & set(self._pool_settings.preload):
                self._keep(self._preload(entry), self._preloads)
        self._set_aliases({**self._configured_aliases, **given})

    async def load(self, model_id: str) -> None:
        """Load a model, which stays as long as one that a request loaded; raises as `chat` does."""
        entry = self._entry(model_id)
        async with self._held(entry):
            pass

    async def unload(self, model_id: str) -> None:
        """Unload a model that no request uses; the next request loads it again.

        Raises:
            ModelNotFoundError: no such model.
            ConflictError: requests use it, or wait for it.
        """
        entry = self._entry(model_id)
        if entry.num_users:
            raise ConflictError(f"{entry.num_users} requests use the model {entry.name} just now; try again later.")
        if entry.loading is not None:
            await asyncio.wait([entry.loading])
        await entry.unload()

    async def free_memory(self, num_bytes: int) -> None:
        """Unload idle models, the least recently used first, until so much memory is free; it may not come to that."""
        async with self._room:
            while await asyncio.to_thread(self._free_bytes) - MARGIN_BYTES < num_bytes:
                idle = [e for e in self._entries.values() if e.is_idle]
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

    def context_length(self, bundle: SignedManifest) -> int:
        """Return the tokens that a request to the model may have here."""
        spec = bundle.manifest.model
        if isinstance(spec, DecoderSpec):
            return min(self._settings.context_length, spec.context_length)
        entry = self._entries.get(bundle.name)
        if entry is not None and isinstance(entry.model, EmbeddingModel | RerankModel):
            return entry.model.spec.max_tokens  # fewer than the bundle says, where memory is short
        return spec.max_tokens

    def listed(self) -> list[ListedModel]:
        """List every id that a request may name: the models, then the aliases."""
        aliases = [ListedModel(alias, self._entries[name].bundle) for alias, name in sorted(self._aliases.items())]
        return self.installed() + aliases

    def installed(self) -> list[ListedModel]:
        """Return the models without their aliases, loaded or not."""
        return [ListedModel(name, entry.bundle) for name, entry in sorted(self._entries.items())]

    def loaded(self) -> list[LoadedModel]:
        """Return the loaded models, sorted by name."""
        entries = sorted([*self._entries.values(), *self._retired], key=lambda e: e.name)
        return [e.model for e in entries if e.model is not None]

    def find(self, model_id: str) -> ListedModel:
        """Return the entry that GET /v1/models/ID shows.

        Raises:
            ModelNotFoundError: no such model.
        """
        return ListedModel(model_id, self._entry(model_id).bundle)

    @contextlib.asynccontextmanager
    async def chat(self, model_id: str) -> AsyncIterator[ChatModel]:
        """Take the decoder of this id, loaded if necessary, and keep it until the block is left.

        Raises:
            ModelNotFoundError: no such model.
            InvalidRequestError: it is a model of another kind.
            UnavailableError: it is still being loaded, or others need the memory just now.
            InsufficientMemoryError: it does not fit into this device's memory.
        """
        async with self._use(model_id, "decoder", ChatModel) as model:
            yield model

    @contextlib.asynccontextmanager
    async def embedding(self, model_id: str) -> AsyncIterator[EmbeddingModel]:
        """Take the encoder of this id; raises as `chat` does."""
        async with self._use(model_id, "encoder", EmbeddingModel) as model:
            yield model

    @contextlib.asynccontextmanager
    async def reranking(self, model_id: str) -> AsyncIterator[RerankModel]:
        """Take the cross-encoder of this id; raises as `chat` does."""
        async with self._use(model_id, "reranker", RerankModel) as model:
            yield model

    @contextlib.asynccontextmanager
    async def _use(self, model_id: str, kind: str, model_class: type[_Kind]) -> AsyncIterator[_Kind]:
        entry = self._entry(model_id)
        found = entry.bundle.manifest.model.kind
        if found != kind:
            raise InvalidRequestError(
                f"The model `{model_id}` {_VERBS[found]}; this needs one that {_VERBS[kind]}.", param="model"
            )
        async with self._held(entry) as model:
            assert isinstance(model, model_class)
            yield model

    @contextlib.asynccontextmanager
    async def _held(self, entry: Entry) -> AsyncIterator[LoadedModel]:
        entry.num_users += 1
        if entry.expiry is not None:
            entry.expiry.cancel()
        try:
            yield entry.model or await self._wait_for(entry)
        finally:
            entry.num_users -= 1
            self._left(entry)

    def _entry(self, model_id: str) -> Entry:
        entry = self._entries.get(self._aliases.get(model_id, model_id))
        if entry is None and not self._is_ready:
            raise UnavailableError("the models are being loaded; try again in a few seconds")
        if entry is None:
            known = ", ".join(sorted(self._entries)) or "none"
            raise ModelNotFoundError(
                f"The model `{model_id}` does not exist or is not installed here. Installed: {known}.", param="model"
            )
        return entry

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
        load = self._begin(entry, evicts=True)
        try:
            async with asyncio.timeout(self._pool_settings.load_wait_s):
                return await asyncio.shield(load)
        except TimeoutError as err:
            raise UnavailableError(f"the model {entry.name} is still being loaded; try again in a few seconds") from err

    async def _preload(self, entry: Entry) -> None:
        try:
            await self._begin(entry, evicts=False)
        except LanternError as err:
            _LOGGER.warning("the model %s is not loaded yet: %s", entry.name, err.message)

    def _begin(self, entry: Entry, *, evicts: bool) -> asyncio.Task[LoadedModel]:
        if entry.loading is None:
            entry.loading = asyncio.create_task(self._load(entry, evicts=evicts), name=f"load-{entry.name}")
            entry.loading.add_done_callback(lambda task: task.cancelled() or task.exception())
        return entry.loading

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
            if isinstance(err, BundleError) and self._entries.get(entry.name) is entry:
                self._damaged[entry.name] = err.message
                del self._entries[entry.name]
            raise
        if fault is not None:
            self._damaged[entry.name] = fault
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
            idle = [e for e in self._entries.values() if e.is_idle]
            if not (idle and evicts):
                raise UnavailableError(f"{needed}, because other models hold it; try again later")
            victim = min(idle, key=lambda e: e.last_used_s)
            _LOGGER.info("the model %s is unloaded to make room for %s", victim.name, entry.name)
            await victim.unload()

    async def _close(self, *, drain_s: float) -> None:
        self._is_ready = False
        everything = [*self._entries.values(), *self._retired]
        loads = [e.loading for e in everything if e.loading is not None]
        await asyncio.gather(*self._preloads, *loads, return_exceptions=True)
        await asyncio.gather(*(e.unload(drain_s=drain_s) for e in everything), *self._unloads)
        self._entries.clear()
        self._retired.clear()

    def _fail(self, err: BaseException) -> None:
        self._has_failed = True
        self._on_failure(err)

    def _needs_of(self, bundle: SignedManifest) -> tuple[Need, ...]:
        graph = b""
        with contextlib.suppress(BundleError):  # found again, and told, when the model is loaded
            graph = self._store.read(bundle, MODEL_NAME)
        forms = form_bytes(bundle, self._cache) if self._settings.use_kernels else None
        return needs_of(bundle, self._settings, graph=graph, forms=forms)

    def _room_bytes(self) -> int:
        """Return the bytes that a further model may take: the budget's rest, and no more than is really free."""
        assert self._budget_bytes is not None
        return max(0, min(self._budget_bytes - self.reserved_bytes, self._free_bytes() - MARGIN_BYTES))

    def _retire(self, entry: Entry) -> None:
        entry.is_retired = True
        self._retired.add(entry)
        if not entry.num_users:
            self._unload_soon(entry)

    def _unload_soon(self, entry: Entry) -> None:
        self._keep(self._unload(entry), self._unloads)

    def _keep(self, work: Coroutine[None, None, None], tasks: set[asyncio.Task[None]]) -> None:
        task = asyncio.create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)

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

    def _set_aliases(self, wanted: Mapping[str, str]) -> None:
        self._aliases = {}
        for alias, name in wanted.items():
            if name in self._entries and alias not in self._entries:
                self._aliases[alias] = name
            elif name not in self._entries:
                _LOGGER.warning("the alias %s is left out: the model %s is not installed", alias, name)


def _installed(store: BundleStore) -> tuple[dict[str, SignedManifest], dict[str, str]]:
    """Return the bundles with a valid signature, and the faults of the others; loading verifies the files."""
    found, refused = {}, {}
    for name in store.names():
        try:
            found[name] = store.describe(name)
        except BundleError as err:
            _LOGGER.error("the model %s is left out: %s", name, err.message)
            refused[name] = err.message
    return found, refused

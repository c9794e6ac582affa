"""The installed models: loaded when somebody asks for them, unloaded when the memory is needed or nobody does."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import TypeVar

from appliance.background import Lifetime
from appliance.bundle import BundleStore, DecoderSpec, SignedManifest
from appliance.bundle.manifest import MODEL_NAME
from appliance.engine.runtime.prepacked import form_bytes
from appliance.errors import (
    BundleError,
    ConflictError,
    InvalidRequestError,
    LanternError,
    ModelNotFoundError,
    UnavailableError,
)
from appliance.host.memory import available_bytes
from appliance.models.catalogue import Catalogue, installed_in
from appliance.models.entry import Entry
from appliance.models.loaded import ChatModel, EmbeddingModel, EngineSettings, ListedModel, LoadedModel, RerankModel
from appliance.models.loading import Loader, load_model
from appliance.models.memory import Need, needs_of
from appliance.models.residence import PoolSettings, Residence

_LOGGER = logging.getLogger(__name__)

_VERBS = {"decoder": "generates text", "encoder": "makes embeddings", "reranker": "ranks documents"}
_Kind = TypeVar("_Kind", ChatModel, EmbeddingModel, RerankModel)


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
        self._catalogue = Catalogue()
        self._residence = Residence(
            self._catalogue,
            store,
            cache=cache,
            settings=settings,
            pool_settings=self._pool_settings,
            on_failure=on_failure,
            free_bytes=free_bytes,
            load=load,
        )
        self._preloads: set[asyncio.Task[None]] = set()
        self._is_ready = False

    @property
    def is_ready(self) -> bool:
        """True once the models of the start are loaded."""
        return self._is_ready

    @property
    def damaged(self) -> Mapping[str, str]:
        """Installed bundles that were refused, each with the reason."""
        return self._catalogue.damaged

    @property
    def aliases(self) -> Mapping[str, str]:
        """Other names of installed models."""
        return self._catalogue.aliases

    @property
    def reserved_bytes(self) -> int:
        """The bytes that the loaded models may take together."""
        return self._residence.reserved_bytes

    def reserved_of(self) -> dict[str, int]:
        """Return the bytes that each model of the store has reserved, by name; 0 for one that is not loaded."""
        return {name: entry.reserved_bytes for name, entry in self._catalogue.entries.items()}

    async def _live(self) -> AsyncIterator[None]:
        """Load the models of the start; at the end stop every thread, after running requests had their time."""
        try:
            await self._start()
            yield
        finally:
            self._is_ready = False
            await asyncio.gather(*self._preloads, return_exceptions=True)
            await self._residence.close(drain_s=self._pool_settings.drain_s)
            self._catalogue.entries.clear()

    async def _start(self) -> None:
        """List the store and load the models of the start; one that cannot be loaded is left out and remembered."""
        await self._residence.measure()
        await self.refresh()
        for name in sorted(set(self._pool_settings.preload) - {"*"} - set(self._catalogue.entries)):
            _LOGGER.warning("the model %s was to be loaded at start, but is not installed", name)
        await asyncio.gather(*self._preloads)
        self._is_ready = True

    async def refresh(self) -> None:
        """See what is installed now: models that were removed or replaced leave as soon as nobody uses them."""
        catalogue = self._catalogue
        installed, refused = await asyncio.to_thread(installed_in, self._store)
        bundles = list(installed.values())
        needs = await asyncio.to_thread(lambda: {b.digest: self._needs_of(b) for b in bundles})
        given = await asyncio.to_thread(self._store.aliases.all)
        catalogue.damaged = refused
        for entry in catalogue.take_out(installed):
            self._residence.retire(entry)
        for bundle in bundles:
            if bundle.name not in catalogue.entries:
                entry = catalogue.add(bundle, needs[bundle.digest])
                if {"*", entry.name} & set(self._pool_settings.preload):
                    self._preload_soon(entry)
        catalogue.set_aliases({**self._configured_aliases, **given})

    async def load(self, model_id: str) -> None:
        """Load a model, which stays as long as one that a request loaded; raises as `chat` does."""
        entry = self._entry(model_id)
        async with self._residence.held(entry):
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
        await self._residence.free_memory(num_bytes)

    def limit_slots(self, num_slots: int) -> None:
        """Let so many slots of every model rest, for a board that is too hot; one always works."""
        self._residence.limit_slots(num_slots)

    def context_length(self, bundle: SignedManifest) -> int:
        """Return the tokens that a request to the model may have here."""
        spec = bundle.manifest.model
        if isinstance(spec, DecoderSpec):
            return min(self._settings.context_length, spec.context_length)
        entry = self._catalogue.entries.get(bundle.name)
        if entry is not None and isinstance(entry.model, EmbeddingModel | RerankModel):
            return entry.model.spec.max_tokens  # fewer than the bundle says, where memory is short
        return spec.max_tokens

    def listed(self) -> list[ListedModel]:
        """List every id that a request may name: the models, then the aliases; the first model is one to chat with."""
        return self._catalogue.listed()

    def installed(self) -> list[ListedModel]:
        """Return the models without their aliases, loaded or not."""
        return self._catalogue.installed()

    def loaded(self) -> list[LoadedModel]:
        """Return the loaded models, sorted by name."""
        return self._residence.loaded()

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
        async with self._residence.held(entry) as model:
            assert isinstance(model, model_class)
            yield model

    def _entry(self, model_id: str) -> Entry:
        entry = self._catalogue.get(model_id)
        if entry is None and not self._is_ready:
            raise UnavailableError("the models are being loaded; try again in a few seconds")
        if entry is None:
            known = ", ".join(sorted(self._catalogue.entries)) or "none"
            raise ModelNotFoundError(
                f"The model `{model_id}` does not exist or is not installed here. Installed: {known}.", param="model"
            )
        return entry

    def _preload_soon(self, entry: Entry) -> None:
        task = asyncio.create_task(self._preload(entry))
        self._preloads.add(task)
        task.add_done_callback(self._preloads.discard)

    async def _preload(self, entry: Entry) -> None:
        try:
            await self._residence.begin(entry, evicts=False)
        except LanternError as err:
            _LOGGER.warning("the model %s is not loaded yet: %s", entry.name, err.message)

    def _needs_of(self, bundle: SignedManifest) -> tuple[Need, ...]:
        graph = b""
        with contextlib.suppress(BundleError):  # found again, and told, when the model is loaded
            graph = self._store.read(bundle, MODEL_NAME)
        forms = form_bytes(bundle, self._cache) if self._settings.use_kernels else None
        return needs_of(bundle, self._settings, graph=graph, forms=forms)

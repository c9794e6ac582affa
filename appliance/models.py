"""Which bundles are loaded, and under which ids clients may ask for them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from appliance.bundle import Bundle, BundleStore, DecoderSpec, EncoderSpec
from appliance.bundle.manifest import CHAT_TEMPLATE_NAME, TOKENIZER_NAME
from appliance.engine.constraint import GrammarCompiler, Vocabulary
from appliance.engine.embed_loop import AsyncEmbedder
from appliance.engine.embedder import Embedder
from appliance.engine.engine import Engine
from appliance.engine.loop import AsyncEngine
from appliance.engine.model_runner import OrtModelRunner
from appliance.engine.prepacked import prepacked
from appliance.errors import BundleError, InvalidRequestError, LanternError, ModelNotFoundError, UnavailableError
from appliance.text.template import ChatTemplate
from appliance.text.tokenizer import Tokenizer

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How models run on this board; `max_waiting` requests are queued beyond the slots."""

    num_slots: int = 4
    context_length: int = 2048
    num_threads: int = 2
    spinning: bool = True
    max_waiting: int = 32


@dataclass(frozen=True, slots=True)
class ChatModel:
    """A loaded decoder with its text side."""

    bundle: Bundle
    spec: DecoderSpec
    tokenizer: Tokenizer
    template: ChatTemplate | None
    grammars: GrammarCompiler
    engine: AsyncEngine


@dataclass(frozen=True, slots=True)
class EmbeddingModel:
    """A loaded encoder with its text side."""

    bundle: Bundle
    spec: EncoderSpec
    tokenizer: Tokenizer
    embedder: AsyncEmbedder


LoadedModel = ChatModel | EmbeddingModel


@dataclass(frozen=True, slots=True)
class ListedModel:
    """What GET /v1/models shows: an id, and the bundle that answers to it."""

    id: str
    bundle: Bundle
    aliases: tuple[str, ...] = field(default=())


class ModelPool:
    """The loaded models; owned by the event loop."""

    def __init__(
        self,
        store: BundleStore,
        *,
        cache: Path,
        settings: EngineSettings,
        aliases: Mapping[str, str],
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self._store = store
        self._cache = cache
        self._settings = settings
        self._aliases = dict(aliases)
        self._on_failure = on_failure
        self._models: dict[str, LoadedModel] = {}
        self._damaged: dict[str, str] = {}
        self._is_ready = False

    @property
    def is_ready(self) -> bool:
        """Whether every installed bundle that could be loaded is."""
        return self._is_ready

    @property
    def damaged(self) -> Mapping[str, str]:
        """Installed bundles that were refused, each with the reason."""
        return self._damaged

    async def load_all(self) -> None:
        """Verify and load every installed bundle, off the event loop; damaged ones are left out and remembered.

        Raises:
            BundleError: not one bundle could be loaded.
        """
        names = await asyncio.to_thread(self._store.names)
        loads = [asyncio.to_thread(self._load, name) for name in names]
        for name, result in zip(names, await asyncio.gather(*loads, return_exceptions=True), strict=True):
            if isinstance(result, LanternError):
                _LOGGER.error("the model %s is left out: %s", name, result.message)
                self._damaged[name] = result.message
            elif isinstance(result, BaseException):
                raise result
            else:
                self._models[name] = result
        if not self._models:
            reason = next(iter(self._damaged.values()), f"no model is installed in {self._store.root}")
            raise BundleError(f"{reason}; build the starter models with: lantern-quantize starter")
        for model in self._models.values():
            (model.engine if isinstance(model, ChatModel) else model.embedder).start()
        self._check_aliases()
        self._is_ready = True

    async def close(self, *, drain_s: float = 0.0) -> None:
        """Stop every model's thread, after running requests had their time."""
        self._is_ready = False
        await asyncio.gather(
            *(
                m.engine.stop(drain_s=drain_s) if isinstance(m, ChatModel) else m.embedder.stop()
                for m in self._models.values()
            )
        )
        self._models.clear()

    def listed(self) -> list[ListedModel]:
        """Every id that a request may name: the models, then the aliases."""
        models = [ListedModel(name, model.bundle) for name, model in sorted(self._models.items())]
        aliases = [ListedModel(alias, self._models[name].bundle) for alias, name in sorted(self._aliases.items())]
        return models + aliases

    def loaded(self) -> list[LoadedModel]:
        """The loaded models, sorted by name."""
        return [model for _, model in sorted(self._models.items())]

    def chat(self, model_id: str) -> ChatModel:
        """The decoder of this id.

        Raises:
            ModelNotFoundError: no such model.
            InvalidRequestError: it is an embedding model.
            UnavailableError: the models are still being loaded.
        """
        model = self._get(model_id)
        if isinstance(model, ChatModel):
            return model
        raise InvalidRequestError(f"The model `{model_id}` makes embeddings and cannot generate text.", param="model")

    def embedding(self, model_id: str) -> EmbeddingModel:
        """The encoder of this id.

        Raises:
            ModelNotFoundError: no such model.
            InvalidRequestError: it is a model that generates text.
            UnavailableError: the models are still being loaded.
        """
        model = self._get(model_id)
        if isinstance(model, EmbeddingModel):
            return model
        raise InvalidRequestError(f"The model `{model_id}` generates text and cannot make embeddings.", param="model")

    def find(self, model_id: str) -> ListedModel:
        """What GET /v1/models/ID shows.

        Raises:
            ModelNotFoundError: no such model.
        """
        return ListedModel(model_id, self._get(model_id).bundle)

    def _get(self, model_id: str) -> LoadedModel:
        model = self._models.get(self._aliases.get(model_id, model_id))
        if model is None and not self._is_ready:
            raise UnavailableError("the models are being loaded; try again in a few seconds")
        if model is None:
            known = ", ".join(sorted(self._models))
            raise ModelNotFoundError(
                f"The model `{model_id}` does not exist or is not installed here. Installed: {known}.", param="model"
            )
        return model

    def _check_aliases(self) -> None:
        for alias, name in list(self._aliases.items()):
            if name not in self._models:
                _LOGGER.warning("the alias %s is left out: the model %s is not loaded", alias, name)
                del self._aliases[alias]

    def _load(self, name: str) -> LoadedModel:
        bundle = self._store.open(name)
        tokenizer = Tokenizer.from_file(bundle.path(TOKENIZER_NAME))
        spec = bundle.manifest.model
        if isinstance(spec, EncoderSpec):
            return self._load_encoder(bundle, spec, tokenizer)
        return self._load_decoder(bundle, spec, tokenizer)

    def _load_encoder(self, bundle: Bundle, spec: EncoderSpec, tokenizer: Tokenizer) -> EmbeddingModel:
        settings = self._settings
        embedder = Embedder(
            prepacked(bundle, self._cache), spec, num_threads=settings.num_threads, spinning=settings.spinning
        )
        return EmbeddingModel(
            bundle, spec, tokenizer, AsyncEmbedder(embedder, name=bundle.name, on_failure=self._on_failure)
        )

    def _load_decoder(self, bundle: Bundle, spec: DecoderSpec, tokenizer: Tokenizer) -> ChatModel:
        settings = self._settings
        capacity = min(settings.context_length, spec.context_length)
        runner = OrtModelRunner(
            prepacked(bundle, self._cache),
            spec,
            num_rows=settings.num_slots,
            capacity=capacity,
            num_threads=settings.num_threads,
            spinning=settings.spinning,
        )
        engine = AsyncEngine(
            Engine(runner),
            name=bundle.name,
            capacity=capacity,
            max_waiting=settings.max_waiting,
            on_failure=self._on_failure,
        )
        vocabulary = Vocabulary(tokenizer.vocabulary_bytes, tokenizer.special_ids, spec.eos_token_ids, tokenizer.encode)
        grammars = GrammarCompiler(vocabulary, vocab_size=spec.vocab_size)
        return ChatModel(bundle, spec, tokenizer, _template_of(bundle, spec, tokenizer), grammars, engine)


def _template_of(bundle: Bundle, spec: DecoderSpec, tokenizer: Tokenizer) -> ChatTemplate | None:
    if not bundle.has(CHAT_TEMPLATE_NAME):
        return None
    source = bundle.path(CHAT_TEMPLATE_NAME).read_text("utf-8")
    names = {token_id: text for text, token_id in tokenizer.special_tokens.items()}
    bos = names.get(spec.bos_token_id, "") if spec.bos_token_id is not None else ""
    eos = names.get(spec.eos_token_ids[0], "")
    return ChatTemplate(source, tokenizer.special_tokens, bos_token=bos, eos_token=eos)

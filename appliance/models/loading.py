"""A verified bundle becomes a loaded model; runs in any thread, starts none of the model's own."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from appliance.bundle import Bundle, DecoderSpec, EncoderSpec, RerankerSpec
from appliance.bundle.manifest import CHAT_TEMPLATE_NAME, TOKENIZER_NAME
from appliance.engine.attention import longest_chunk
from appliance.engine.constraint import GrammarCompiler, Vocabulary
from appliance.engine.embed_loop import AsyncEmbedder, AsyncReranker
from appliance.engine.embedder import Embedder, Reranker
from appliance.engine.engine import Engine
from appliance.engine.loop import AsyncEngine
from appliance.engine.model_file import ModelFile
from appliance.engine.model_runner import OrtModelRunner
from appliance.engine.prepacked import prepacked
from appliance.engine.scheduler import Scheduler
from appliance.errors import ModelError
from appliance.host.mapped import forget_pages
from appliance.models.loaded import ChatModel, EmbeddingModel, EngineSettings, LoadedModel, RerankModel
from appliance.text.template import ChatTemplate
from appliance.text.tokenizer import Tokenizer

_LOGGER = logging.getLogger(__name__)


class Loader(Protocol):
    """`load_model`, or what stands for it in a test."""

    def __call__(
        self, bundle: Bundle, settings: EngineSettings, *, cache: Path, on_failure: Callable[[BaseException], None]
    ) -> LoadedModel:
        """See load_model."""


def load_model(
    bundle: Bundle, settings: EngineSettings, *, cache: Path, on_failure: Callable[[BaseException], None]
) -> LoadedModel:
    """Load it; `cache` holds the prepacked weights, `on_failure` is told when the model is lost while running.

    Raises:
        LanternError: a file of it cannot be used.
    """
    tokenizer = Tokenizer.from_file(bundle.path(TOKENIZER_NAME))
    spec = bundle.manifest.model
    if isinstance(spec, EncoderSpec):
        return _load_encoder(bundle, spec, tokenizer, settings, cache, on_failure)
    if isinstance(spec, RerankerSpec):
        return _load_reranker(bundle, spec, tokenizer, settings, cache, on_failure)
    return _load_decoder(bundle, spec, tokenizer, settings, cache, on_failure)


def _load_encoder(
    bundle: Bundle,
    spec: EncoderSpec,
    tokenizer: Tokenizer,
    settings: EngineSettings,
    cache: Path,
    on_failure: Callable[[BaseException], None],
) -> EmbeddingModel:
    file = prepacked(bundle, cache)
    tuning = file.tuning.with_settings(settings.num_threads, settings.spinning)
    embedder = Embedder(file, spec, num_threads=tuning.num_threads, spinning=tuning.spinning)
    forget_pages(file.path.parent)
    return EmbeddingModel(bundle, spec, tokenizer, AsyncEmbedder(embedder, name=bundle.name, on_failure=on_failure))


def _load_reranker(
    bundle: Bundle,
    spec: RerankerSpec,
    tokenizer: Tokenizer,
    settings: EngineSettings,
    cache: Path,
    on_failure: Callable[[BaseException], None],
) -> RerankModel:
    file = prepacked(bundle, cache)
    tuning = file.tuning.with_settings(settings.num_threads, settings.spinning)
    reranker = Reranker(file, num_threads=tuning.num_threads, spinning=tuning.spinning)
    forget_pages(file.path.parent)
    return RerankModel(bundle, spec, tokenizer, AsyncReranker(reranker, name=bundle.name, on_failure=on_failure))


def _load_decoder(
    bundle: Bundle,
    spec: DecoderSpec,
    tokenizer: Tokenizer,
    settings: EngineSettings,
    cache: Path,
    on_failure: Callable[[BaseException], None],
) -> ChatModel:
    capacity = min(settings.context_length, spec.context_length)
    file, runner = _runner(bundle, spec, settings, cache, capacity)
    forget_pages(file.path.parent)
    engine = AsyncEngine(
        Engine(runner, Scheduler.within(longest_chunk(file.path.read_bytes(), capacity))),
        name=bundle.name,
        capacity=capacity,
        max_waiting=settings.max_waiting,
        on_failure=on_failure,
    )
    vocabulary = Vocabulary(tokenizer.vocabulary_bytes, tokenizer.special_ids, spec.eos_token_ids, tokenizer.encode)
    grammars = GrammarCompiler(vocabulary, vocab_size=spec.vocab_size)
    return ChatModel(bundle, spec, tokenizer, template_of(bundle, spec, tokenizer), grammars, engine)


def _runner(
    bundle: Bundle, spec: DecoderSpec, settings: EngineSettings, cache: Path, capacity: int
) -> tuple[ModelFile, OrtModelRunner]:
    """The decoder where it runs best; on the processor where a GPU that was chosen before has no room for it now."""
    cache_type = None if settings.kv_cache == "auto" else settings.kv_cache
    file = prepacked(
        bundle, cache, cache_type=cache_type, fast_prompts=settings.fast_prompts, use_device=settings.use_device
    )
    tuning = file.tuning.with_settings(settings.num_threads, settings.spinning)
    try:
        runner = OrtModelRunner(
            file,
            spec,
            num_rows=settings.num_slots,
            capacity=capacity,
            num_threads=tuning.num_threads,
            spinning=tuning.spinning,
        )
    except ModelError as err:
        if file.device is None:
            raise
        _LOGGER.warning("%s runs on the processor: %s", bundle.name, err)
        return _runner(bundle, spec, replace(settings, use_device=False), cache, capacity)
    return file, runner


def template_of(bundle: Bundle, spec: DecoderSpec, tokenizer: Tokenizer) -> ChatTemplate | None:
    """The bundle's chat template, compiled and tried; None for a model that only continues text."""
    if not bundle.has(CHAT_TEMPLATE_NAME):
        return None
    source = bundle.path(CHAT_TEMPLATE_NAME).read_text("utf-8")
    names = {token_id: text for text, token_id in tokenizer.special_tokens.items()}
    bos = names.get(spec.bos_token_id, "") if spec.bos_token_id is not None else ""
    eos = names.get(spec.eos_token_ids[0], "")
    return ChatTemplate(source, tokenizer.special_tokens, bos_token=bos, eos_token=eos)

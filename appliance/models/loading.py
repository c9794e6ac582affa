"""Loading: a verified bundle becomes a model; runs in any thread, and starts none."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol, TypeVar

from appliance.bundle import Bundle, DecoderSpec, EncoderSpec, Manifest, RerankerSpec
from appliance.bundle.manifest import CHAT_TEMPLATE_NAME, TOKENIZER_NAME
from appliance.bundle.targets import is_built_for
from appliance.engine.engine import Engine
from appliance.engine.graphs.attention import longest_chunk
from appliance.engine.loop import AsyncEngine
from appliance.engine.runtime.grammar import GrammarCompiler, Vocabulary
from appliance.engine.runtime.kept_slots import KeptSlots
from appliance.engine.runtime.model_file import ModelFile
from appliance.engine.runtime.model_runner import OrtModelRunner
from appliance.engine.runtime.prepacked import prepacked
from appliance.engine.runtime.slot_archive import SlotArchive
from appliance.engine.runtime.tuning import Tuning
from appliance.engine.scheduler import Scheduler
from appliance.engine.texts.embedder import Embedder, Reranker
from appliance.engine.texts.loop import AsyncTextModel
from appliance.errors import ModelError
from appliance.host.mapped import forget_pages
from appliance.host.processor import processor_kind
from appliance.models.loaded import ChatModel, EmbeddingModel, EngineSettings, LoadedModel, RerankModel
from appliance.text.template import ChatTemplate
from appliance.text.tokenizer import Tokenizer

_LOGGER = logging.getLogger(__name__)
_TextSpec = TypeVar("_TextSpec", EncoderSpec, RerankerSpec)


class Loader(Protocol):
    """The signature of `load_model`."""

    def __call__(
        self, bundle: Bundle, settings: EngineSettings, *, cache: Path, on_failure: Callable[[BaseException], None]
    ) -> LoadedModel:
        """See load_model."""


def load_model(
    bundle: Bundle, settings: EngineSettings, *, cache: Path, on_failure: Callable[[BaseException], None]
) -> LoadedModel:
    """Load a model; `cache` holds the prepacked weights, `on_failure` is called when the running model is lost.

    Raises:
        LanternError: a file of the bundle cannot be used.
    """
    built_for, kind = bundle.manifest.built_for, processor_kind()
    if not is_built_for(built_for, kind):
        _LOGGER.warning("%s was built for %s and runs on another processor: %s", bundle.name, built_for, kind)
    tokenizer = Tokenizer.from_file(bundle.path(TOKENIZER_NAME))
    match bundle.manifest.model:
        case EncoderSpec() as spec:
            spec = _with_texts(bundle.name, spec, settings.max_text_tokens)
            file, tuning = _text_model_file(bundle, settings, cache)
            embedder = Embedder(file, spec, num_threads=tuning.num_threads, spinning=tuning.spinning)
            forget_pages(file.path.parent)
            embed = AsyncTextModel(embedder.embed, name=bundle.name, on_failure=on_failure)
            return EmbeddingModel(bundle, spec, tokenizer, embed)
        case RerankerSpec() as spec:
            spec = _with_texts(bundle.name, spec, settings.max_text_tokens)
            file, tuning = _text_model_file(bundle, settings, cache)
            reranker = Reranker(file, num_threads=tuning.num_threads, spinning=tuning.spinning)
            forget_pages(file.path.parent)
            score = AsyncTextModel(reranker.score, name=bundle.name, on_failure=on_failure)
            return RerankModel(bundle, spec, tokenizer, score)
        case DecoderSpec() as spec:
            return _load_decoder(bundle, spec, tokenizer, settings, cache, on_failure)


def _with_texts(name: str, spec: _TextSpec, max_tokens: int | None) -> _TextSpec:
    """Return the specification with texts of at most so many tokens, as far as this device's memory goes."""
    if max_tokens is None or max_tokens >= spec.max_tokens:
        return spec
    _LOGGER.warning("%s takes texts of %d tokens, not %d: memory is short", name, max_tokens, spec.max_tokens)
    return spec.model_copy(update={"max_tokens": max_tokens})


def _text_model_file(bundle: Bundle, settings: EngineSettings, cache: Path) -> tuple[ModelFile, Tuning]:
    file = prepacked(bundle, cache)
    return file, file.tuning.with_settings(settings.num_threads, settings.spinning)


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
    archive = _archive(bundle, file, settings, runner)
    scheduler = Scheduler.within(longest_chunk(file.path.read_bytes(), capacity))
    core = Engine(runner, scheduler, archive=archive)
    if archive is not None:
        archive.restore(core.slots)
    engine = AsyncEngine(
        core,
        name=bundle.name,
        capacity=capacity,
        max_waiting=settings.max_waiting,
        on_failure=on_failure,
        on_end=lambda: None if archive is None else archive.save(core.slots),
    )
    vocabulary = Vocabulary(tokenizer.vocabulary_bytes, tokenizer.special_ids, spec.eos_token_ids, tokenizer.encode)
    grammars = GrammarCompiler(vocabulary, vocab_size=spec.vocab_size)
    return ChatModel(
        bundle, spec, tokenizer, template_of(bundle.folder, bundle.manifest, spec, tokenizer), grammars, engine
    )


def prepared_decoder(bundle: Bundle, settings: EngineSettings, cache: Path) -> tuple[ModelFile, Tuning]:
    """Return a decoder's prepared form and its threads, as the settings and this board have it."""
    file = prepacked(
        bundle,
        cache,
        cache_type=None if settings.kv_cache == "auto" else settings.kv_cache,
        fast_prompts=settings.fast_prompts,
        use_device=settings.use_device,
        use_kernels=settings.use_kernels,
    )
    return file, file.tuning.with_settings(settings.num_threads, settings.spinning)


def _runner(
    bundle: Bundle, spec: DecoderSpec, settings: EngineSettings, cache: Path, capacity: int
) -> tuple[ModelFile, OrtModelRunner]:
    """Load the decoder as it was chosen for this board; without the GPU, then without the kernels, if it fails so."""
    file, tuning = prepared_decoder(bundle, settings, cache)
    try:
        runner = OrtModelRunner(
            file,
            spec,
            num_slots=settings.num_slots,
            capacity=capacity,
            num_threads=tuning.num_threads,
            spinning=tuning.spinning,
            checkpoint_bytes=settings.checkpoint_bytes,
        )
    except ModelError as err:
        if file.device is not None:
            _LOGGER.warning("%s runs on the processor: %s", bundle.name, err)
            return _runner(bundle, spec, replace(settings, use_device=False), cache, capacity)
        if file.kernels is not None:
            _LOGGER.warning("Stock operators serve %s: %s", bundle.name, err)
            return _runner(bundle, spec, replace(settings, use_kernels=False), cache, capacity)
        raise
    return file, runner


def _archive(bundle: Bundle, file: ModelFile, settings: EngineSettings, runner: OrtModelRunner) -> SlotArchive | None:
    """Return the conversations with this model that are kept on the disk; None where none may be."""
    if settings.conversations is None:
        return None
    kept = KeptSlots(settings.conversations, name=bundle.name, model=file.identity(bundle.digest))
    return SlotArchive(kept, runner)


def template_of(folder: Path, manifest: Manifest, spec: DecoderSpec, tokenizer: Tokenizer) -> ChatTemplate | None:
    """Return the bundle's chat template, compiled and tried; None for a model that only continues text."""
    if not any(f.name == CHAT_TEMPLATE_NAME for f in manifest.files):
        return None
    source = (folder / CHAT_TEMPLATE_NAME).read_text("utf-8")
    names = {token_id: text for text, token_id in tokenizer.special_tokens.items()}
    bos = names.get(spec.bos_token_id, "") if spec.bos_token_id is not None else ""
    eos = names.get(spec.eos_token_ids[0], "")
    return ChatTemplate(source, tokenizer.special_tokens, bos_token=bos, eos_token=eos)

"""A finished bundle measured again on this machine: speed and memory first, then quality against its own checkpoint."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil

from appliance.bundle import Bundle, DecoderSpec, EncoderSpec, RerankerSpec
from appliance.bundle.manifest import KV_SCALES_NAME, MODEL_NAME
from appliance.engine.embedder import Reranker
from appliance.engine.model_file import ModelFile
from appliance.engine.types import StepPlan
from appliance.errors import QuantizeError
from appliance.home import Home
from quantize.build import BuildOptions, open_run
from quantize.decoders.run import fused_graph
from quantize.encoders.run import float_reference
from quantize.evaluation import texts
from quantize.evaluation.answers import answers_of, compare_answers, task_metrics
from quantize.evaluation.decoder import Metrics, evaluate_decoder, load_runner, perplexity, runner_threads
from quantize.evaluation.encoder import evaluate_encoder, load_embedder
from quantize.evaluation.reranker import encoded_pairs, evaluate_reranker, query_document_pairs
from quantize.evaluation.similarity import read_rated_pairs
from quantize.evaluation.tasks import TASKS
from quantize.fusion.export import RERANKER_TASK
from quantize.precision.kv_scales import int8_cache_metrics
from quantize.progress import StageProgress
from quantize.recipe import Recipe
from quantize.run import Run, exported
from quantize.sources.decoder_config import read_decoder_config
from quantize.sources.encoder_config import read_encoder_config
from quantize.sources.sentence import load_tokenizer, read_layout

_NEEDED = frozenset({"source", "context_length", "weights"})  # the fields that the float graph and its source need
_PROMPT_TOKENS = 128
_DECODE_TOKENS = 32
_SPEED_SNIPPETS = [20] * 32  # words each


def measure_bundle(
    bundle: Bundle,
    home: Home,
    progress: StageProgress,
    options: BuildOptions,
    source: str | None,
    similarity: Path | None = None,
) -> Metrics:
    """All figures that can be had: quality against the float model only where the checkpoint can.

    Raises:
        QuantizeError: the named source is not to be had, or is not the bundle's checkpoint.
    """
    spec = bundle.manifest.model
    with progress.stage("speed"):
        speed = _decoder_speed(bundle.folder, spec) if isinstance(spec, DecoderSpec) else _text_speed(bundle, spec)
    recipe = recipe_of(bundle, source)
    if recipe is None:
        progress.note("the bundle does not say where its checkpoint lies: no KL; name it with --source")
        return speed | (_alone(bundle.folder, spec) if isinstance(spec, DecoderSpec) else {})
    with open_run(recipe, home, progress, options) as (run, checkpoint):
        if run.source.sha256 != bundle.manifest.source.sha256:
            raise QuantizeError(f"{recipe.source.uri} is not the checkpoint that {bundle.name} was built from")
        if isinstance(spec, DecoderSpec):
            fused = fused_graph(run, checkpoint, read_decoder_config(checkpoint)).folder
            with progress.stage("evaluate"):
                return speed | _decoder_quality(bundle, spec, fused, run)
        return speed | _quality_of_texts(bundle, spec, run, checkpoint, similarity)


def recipe_of(bundle: Bundle, source: str | None) -> Recipe | None:
    """The recipe that the bundle was built from, with another source where one is given; None where none is known."""
    fields = {name: value for name, value in bundle.manifest.recipe.items() if name in _NEEDED}
    uri = source or str(fields.get("source", {}).get("uri", "")).removeprefix("hf:")
    if not uri or (source is None and uri.startswith(("folder:", "file:"))):
        return None
    part = {**fields.get("source", {}), "uri": uri}
    if source is None and bundle.manifest.source.revision is not None:
        part["revision"] = bundle.manifest.source.revision
    return Recipe.create(**{**fields, "name": bundle.name, "license": bundle.manifest.license, "source": part})


def _quality_of_texts(
    bundle: Bundle, spec: EncoderSpec | RerankerSpec, run: Run, checkpoint: Path, similarity: Path | None
) -> Metrics:
    report = run.progress.advance_to
    if isinstance(spec, RerankerSpec):
        reference = exported(run, checkpoint, RERANKER_TASK).folder
        with run.progress.stage("evaluate"):
            return evaluate_reranker(reference, bundle.folder, checkpoint, spec.max_tokens, report).metrics
    config = read_encoder_config(checkpoint)
    layout = read_layout(checkpoint, config)
    reference = float_reference(run, checkpoint, config, layout).folder
    rated = [] if similarity is None else read_rated_pairs(similarity)
    with run.progress.stage("evaluate"):
        return evaluate_encoder(reference, bundle.folder, checkpoint, spec, layout, report, rated).metrics


def _decoder_quality(bundle: Bundle, spec: DecoderSpec, fused: Path, run: Run) -> Metrics:
    folder, report = bundle.folder, run.progress.advance_to
    metrics = evaluate_decoder(fused, folder, folder, spec, lambda done: report(done / 3)).metrics
    if bundle.has(KV_SCALES_NAME):
        scratch = run.stages.root
        metrics |= int8_cache_metrics(fused, folder, folder, folder, spec, scratch, lambda done: report((1 + done) / 3))
    answers = compare_answers(fused, folder, folder, spec, lambda done: report((2 + done) / 3))
    return metrics | task_metrics(answers)


def _alone(folder: Path, spec: DecoderSpec) -> Metrics:
    answers = answers_of(folder, folder, spec, [task.question for task in TASKS])
    right = sum(task.is_right(answer) for task, answer in zip(TASKS, answers, strict=True))
    return {"perplexity": perplexity(folder, folder, spec), "tasks": float(len(TASKS)), "tasks_right": float(right)}


def _decoder_speed(folder: Path, spec: DecoderSpec) -> Metrics:
    before = psutil.Process().memory_info().rss
    prompt = min(_PROMPT_TOKENS, spec.context_length // 2)
    steps = min(_DECODE_TOKENS, spec.context_length - prompt)
    runner = load_runner(folder, spec, capacity=prompt + steps)
    ids = np.random.default_rng(0).integers(0, spec.vocab_size, (1, prompt))
    last, first = np.array([prompt - 1], np.int64), np.zeros(1, np.int64)
    runner.run(StepPlan(0, ids, np.zeros(1, np.int32), last))  # the first run also reserves memory
    started = time.perf_counter()
    runner.run(StepPlan(0, ids, np.zeros(1, np.int32), last))
    prefilled = time.perf_counter()
    for step in range(steps):
        runner.run(StepPlan(0, ids[:, :1], np.array([prompt + step], np.int32), first))
    ended = time.perf_counter()
    return {
        "decode_tokens_per_s": steps / (ended - prefilled),
        "prompt_tokens_per_s": prompt / (prefilled - started),
        "memory_mb": (psutil.Process().memory_info().rss - before) / 1e6,
    }


def _text_speed(bundle: Bundle, spec: EncoderSpec | RerankerSpec) -> Metrics:
    """Texts of 20 words, or pairs of a query and a document, in one batch."""
    before = psutil.Process().memory_info().rss
    compute = _vectors(bundle, spec) if isinstance(spec, EncoderSpec) else _scores(bundle, spec)
    num_texts = compute()
    started = time.perf_counter()
    compute()
    return {
        "texts_per_s": num_texts / (time.perf_counter() - started),
        "memory_mb": (psutil.Process().memory_info().rss - before) / 1e6,
    }


def _vectors(bundle: Bundle, spec: EncoderSpec) -> Callable[[], int]:
    embedder, tokenizer = load_embedder(bundle.folder, spec), load_tokenizer(bundle.folder)
    snippets = texts.snippets([texts.held_out_prose()], _SPEED_SNIPPETS, 131)
    tokens = [tokenizer.encode(text).ids[: spec.max_tokens] for text in snippets]
    return lambda: len(embedder.embed(tokens))


def _scores(bundle: Bundle, spec: RerankerSpec) -> Callable[[], int]:
    reranker = Reranker(ModelFile(bundle.path(MODEL_NAME)), num_threads=runner_threads())
    pairs = encoded_pairs(bundle.folder, query_document_pairs([texts.held_out_prose()], 4), spec.max_tokens)
    return lambda: len(reranker.score(pairs))

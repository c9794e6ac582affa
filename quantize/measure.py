"""A finished bundle measured again on this machine: speed and memory first, then quality against its own checkpoint."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil

from appliance.bundle import Bundle, DecoderSpec, EncoderSpec
from appliance.engine.types import StepPlan
from appliance.errors import QuantizeError
from appliance.home import Home
from quantize.build import BuildOptions, Run, open_run
from quantize.evaluation import texts
from quantize.evaluation.answers import answers_of
from quantize.evaluation.decoder import perplexity
from quantize.evaluation.encoder import encoder_of
from quantize.evaluation.metrics import Metrics, load_metrics
from quantize.evaluation.reranker import encoded_pairs, query_document_pairs
from quantize.evaluation.runners import load_embedder, load_reranker, load_runner
from quantize.evaluation.tasks import TASKS
from quantize.kinds import KINDS
from quantize.kinds.kind import EVALUATE
from quantize.pipeline import PARTIAL, steps_to
from quantize.progress import StageProgress
from quantize.recipe import Recipe
from quantize.spec import ModelSpec

_NEEDED = frozenset({"source", "context_length", "weights", "scoring"})  # what the float graph and its source need
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
    """Measure speed and memory, and the quality against the float model if the checkpoint is known.

    Raises:
        QuantizeError: the named source is not available, or is not the bundle's checkpoint.
    """
    spec = bundle.manifest.model
    with progress.stage("speed"):
        speed = _decoder_speed(bundle.folder, spec) if isinstance(spec, DecoderSpec) else _text_speed(bundle, spec)
    recipe = recipe_of(bundle, source, similarity)
    if recipe is None:
        progress.note("the bundle does not name its checkpoint, so KL is not measured; name it with --source")
        return speed | (_alone(bundle.folder, spec) if isinstance(spec, DecoderSpec) else {})
    with open_run(recipe, home, progress, options, reference_only=True) as run:
        if run.source.sha256 != bundle.manifest.source.sha256:
            raise QuantizeError(f"{recipe.source.uri} is not the checkpoint that {bundle.name} was built from")
        return speed | _quality(bundle, run, progress)


def recipe_of(bundle: Bundle, source: str | None, similarity: Path | None = None) -> Recipe | None:
    """Return the recipe that the bundle was built from, with the given source; None if no source is known."""
    fields = {name: value for name, value in bundle.manifest.recipe.items() if name in _NEEDED}
    uri = source or str(fields.get("source", {}).get("uri", "")).removeprefix("hf:")
    if not uri or (source is None and uri.startswith(("folder:", "file:"))):
        return None
    part = {**fields.get("source", {}), "uri": uri}
    if source is None and bundle.manifest.source.revision is not None:
        part["revision"] = bundle.manifest.source.revision
    evaluation = {} if similarity is None else {"similarity": str(similarity)}
    named = {"name": bundle.name, "license": bundle.manifest.license, "source": part, "evaluation": evaluation}
    return Recipe.create(**{**fields, **named})


def _quality(bundle: Bundle, run: Run, progress: StageProgress) -> Metrics:
    """Run the kind's own evaluation, with the bundle's folder in the place of the stages that made its files."""
    kind = KINDS[bundle.manifest.model.kind]
    steps = kind.stages(run.recipe)
    outputs = run.run_all(steps_to(steps, kind.reference))
    folders = {name: output.folder for name, output in outputs.items()}
    evaluate = next(step for step in steps if step.name == EVALUATE)
    inputs = {role: folders.get(name, bundle.folder) for role, name in evaluate.inputs.items()}
    with (
        progress.stage(EVALUATE) as done,
        tempfile.TemporaryDirectory(dir=run.stages.root, prefix=PARTIAL) as target,
    ):
        evaluate.stage.work(Path(target), evaluate.part, done, **inputs)
        return load_metrics(Path(target))


def _alone(folder: Path, spec: DecoderSpec) -> Metrics:
    """Measure a decoder by itself, without its float form."""
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


def _text_speed(bundle: Bundle, spec: ModelSpec) -> Metrics:
    """Measure one batch of texts of 20 words, or of pairs of a query and a document."""
    before = psutil.Process().memory_info().rss
    compute = _batch_of(bundle.folder, spec)
    num_texts = compute()
    started = time.perf_counter()
    compute()
    return {
        "texts_per_s": num_texts / (time.perf_counter() - started),
        "memory_mb": (psutil.Process().memory_info().rss - before) / 1e6,
    }


def _batch_of(folder: Path, spec: ModelSpec) -> Callable[[], int]:
    """Load a text model, and return a function that computes one batch and returns its size."""
    prose = [texts.held_out_prose()]
    if isinstance(spec, EncoderSpec):
        embedder, encode = load_embedder(folder, spec), encoder_of(folder, spec.max_tokens)
        snippets = texts.snippets(prose, _SPEED_SNIPPETS, 131)
        tokens = [encode(text) for text in snippets]
        return lambda: len(embedder.embed(tokens))
    assert not isinstance(spec, DecoderSpec)
    reranker = load_reranker(folder)
    pairs = encoded_pairs(folder, query_document_pairs(prose, 4), spec)
    return lambda: len(reranker.score(pairs))

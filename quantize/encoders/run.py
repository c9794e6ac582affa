"""The stages of a text encoder or a cross-encoder: a float reference, the int8 graph from the weights, evaluation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from appliance.bundle import EncoderSpec, RerankerSpec
from appliance.errors import QuantizeError
from quantize.encoders.build import build_encoder, build_float_encoder, build_reranker
from quantize.evaluation import texts
from quantize.evaluation.distribution import Distribution
from quantize.evaluation.encoder import evaluate_encoder
from quantize.evaluation.findings import Findings
from quantize.evaluation.reranker import evaluate_reranker
from quantize.evaluation.similarity import read_rated_pairs
from quantize.fusion.export import ENCODER_TASK, RERANKER_TASK
from quantize.package import Ingredients, encoder_spec, reranker_spec
from quantize.pipeline import StageOutput
from quantize.run import Metrics, Run, evaluated, exported, input_sha256
from quantize.sources.encoder_config import EncoderConfig, read_encoder_config
from quantize.sources.sentence import SentenceLayout, read_layout

_NOT_EXPORTED = frozenset({"nomic_bert"})  # transformers knows them only with code from the hub, which is never run

_SMOOTHING = 0.8  # of MiniLM; with 0.5 the worst cosine is .9909 instead of .9949

Report = Callable[[float], None]


def run_encoder(run: Run, checkpoint: Path) -> Ingredients:
    """Run or resume every stage up to the ingredients of the bundle."""
    _check_scheme(run)
    config = read_encoder_config(checkpoint)
    layout = read_layout(checkpoint, config)
    spec = encoder_spec(config, layout, checkpoint, run.recipe)
    reference = float_reference(run, checkpoint, config, layout)
    smoothing, similarity = _smoothing(run), run.recipe.evaluation.similarity
    rated = [] if similarity is None else read_rated_pairs(Path(similarity))

    def build(target: Path) -> None:
        build_encoder(checkpoint, target, config, layout, smoothing=smoothing)

    def measure(quantized: Path, report: Report) -> tuple[Metrics, NDArray[np.float32]]:
        found = evaluate_encoder(reference.folder, quantized, checkpoint, spec, layout, report, rated)
        return found.metrics, 1 - found.cosines

    return _finish(run, checkpoint, spec, reference, build, measure)


def run_reranker(run: Run, checkpoint: Path) -> Ingredients:
    """Run or resume every stage up to the ingredients of the bundle."""
    _check_scheme(run)
    config = read_encoder_config(checkpoint)
    spec = reranker_spec(config, checkpoint)
    reference = exported(run, checkpoint, RERANKER_TASK)
    smoothing = _smoothing(run)

    def build(target: Path) -> None:
        build_reranker(checkpoint, target, config, spec.max_tokens, smoothing=smoothing)

    def measure(quantized: Path, report: Report) -> tuple[Metrics, NDArray[np.float32]]:
        found = evaluate_reranker(reference.folder, quantized, checkpoint, spec.max_tokens, report)
        return found.metrics, found.differences

    return _finish(run, checkpoint, spec, reference, build, measure)


def float_reference(run: Run, checkpoint: Path, config: EncoderConfig, layout: SentenceLayout) -> StageOutput:
    """The float graph by optimum, or our own where optimum has none."""
    if config.architecture not in _NOT_EXPORTED:
        return exported(run, checkpoint, ENCODER_TASK)

    def work(target: Path) -> None:
        build_float_encoder(checkpoint, target, config, layout)

    return run.stage("export", {"source": run.source.sha256, "task": "own float graph"}, work)


def _smoothing(run: Run) -> float:
    strength = run.recipe.weights.smoothing
    return _SMOOTHING if strength is None else strength


def _check_scheme(run: Run) -> None:
    if run.recipe.weights.scheme != "int8":
        raise QuantizeError(f"encoders are built with --scheme int8, not {run.recipe.weights.scheme}")


def _finish(
    run: Run,
    checkpoint: Path,
    spec: EncoderSpec | RerankerSpec,
    reference: StageOutput,
    build: Callable[[Path], None],
    measure: Callable[[Path, Report], tuple[Metrics, NDArray[np.float32]]],
) -> Ingredients:
    recipe = run.recipe
    inputs = {"source": run.source.sha256, "smoothing": _smoothing(run)}
    weights = run.stage("weights", inputs, build)

    def work(target: Path, report: Report) -> Metrics:
        metrics, differences = measure(weights.folder, report)
        Distribution.of(differences).save(target)
        return metrics

    evaluation = {"float": reference.key, "weights": weights.key, **recipe.evaluation.identity()}
    report, folder = evaluated(run, evaluation, work, texts.DESCRIPTION)
    findings = Findings(distribution=Distribution.load(folder))
    return Ingredients(
        recipe, run.source, checkpoint, weights.folder, spec, report, input_sha256(recipe, run.source.sha256), findings
    )

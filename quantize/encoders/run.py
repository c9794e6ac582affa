"""The stages of a text encoder: export for reference, int8 graph from the weights, evaluation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from appliance.errors import QuantizeError
from quantize.encoders.build import build_encoder
from quantize.evaluation import texts
from quantize.evaluation.distribution import Distribution
from quantize.evaluation.encoder import evaluate_encoder
from quantize.evaluation.findings import Findings
from quantize.fusion.export import ENCODER_TASK
from quantize.package import Ingredients, encoder_spec
from quantize.run import Metrics, Run, evaluated, exported, input_sha256
from quantize.sources.checkpoint import read_encoder_config
from quantize.sources.sentence import read_layout


def run_encoder(run: Run, checkpoint: Path) -> Ingredients:
    """Run or resume every stage up to the ingredients of the bundle."""
    recipe = run.recipe
    if recipe.weights.scheme != "int8":
        raise QuantizeError(f"encoders are built with --scheme int8, not {recipe.weights.scheme}")
    config = read_encoder_config(checkpoint)
    layout = read_layout(checkpoint, config)
    spec = encoder_spec(config, layout, checkpoint)
    reference = exported(run, checkpoint, ENCODER_TASK)
    smoothing = recipe.weights.smoothing
    inputs = {"source": run.source.sha256, "smoothing": smoothing}

    def build(target: Path) -> None:
        build_encoder(checkpoint, target, config, layout, smoothing=smoothing)

    weights = run.stage("weights", inputs, build)

    def measure(target: Path, report: Callable[[float], None]) -> Metrics:
        found = evaluate_encoder(reference.folder, weights.folder, checkpoint, layout, report)
        Distribution.of(1 - found.cosines).save(target)
        return found.metrics

    report, folder = evaluated(run, {"float": reference.key, "weights": weights.key}, measure, texts.DESCRIPTION)
    findings = Findings(distribution=Distribution.load(folder))
    return Ingredients(
        recipe, run.source, checkpoint, weights.folder, spec, report, input_sha256(recipe, run.source.sha256), findings
    )

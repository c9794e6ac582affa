"""The stages of a causal model: export, fusion, weights, evaluation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from appliance.bundle import DecoderSpec
from quantize import texts
from quantize.calibration import WINDOWS_NAME, calibration_windows
from quantize.checkpoint import read_decoder_config
from quantize.decoder_weights import quantize_to_int4, quantize_to_int8
from quantize.evaluate import evaluate_decoder
from quantize.export import DECODER_TASK
from quantize.fuse import fuse_file
from quantize.package import Ingredients, context_length, decoder_spec
from quantize.pipeline import StageOutput
from quantize.run import Metrics, Run, evaluated, exported, input_sha256


def run_decoder(run: Run, checkpoint: Path) -> Ingredients:
    """Run or resume every stage up to the ingredients of the bundle."""
    recipe = run.recipe
    config = read_decoder_config(checkpoint)
    spec = decoder_spec(config, checkpoint, recipe)
    float_graph = exported(run, checkpoint, DECODER_TASK)
    positions = context_length(config, recipe)

    def fuse(target: Path) -> None:
        fuse_file(float_graph.folder, target, config, context_length=positions)

    fused = run.stage("fuse", {"export": float_graph.key, "positions": positions}, fuse)

    weights = _weights(run, checkpoint, fused, spec)

    def measure(report: Callable[[float], None]) -> Metrics:
        return evaluate_decoder(fused.folder, weights.folder, checkpoint, spec, report)

    report = evaluated(run, {"fused": fused.key, "weights": weights.key}, measure, texts.DESCRIPTION)
    return Ingredients(
        recipe, run.source, checkpoint, weights.folder, spec, report, input_sha256(recipe, run.source.sha256)
    )


def _weights(run: Run, checkpoint: Path, fused: StageOutput, spec: DecoderSpec) -> StageOutput:
    part = run.recipe.weights
    if part.scheme == "int8":
        return run.stage("weights", {"fused": fused.key}, lambda target: quantize_to_int8(fused.folder, target))
    report = run.progress.advance_to

    def calibrate(target: Path) -> None:
        windows = calibration_windows(checkpoint, fused.folder, spec, run.recipe.calibration, report)
        np.save(target / WINDOWS_NAME, windows)

    inputs = {"fused": fused.key, "calibration": run.recipe.calibration.model_dump()}
    calibration = run.stage("calibrate", inputs, calibrate)

    def quantize(target: Path) -> None:
        windows = np.load(calibration.folder / WINDOWS_NAME)
        quantize_to_int4(fused.folder, target, part, windows, spec, report)

    return run.stage("weights", {"calibration": calibration.key, "int8": list(part.int8)}, quantize)

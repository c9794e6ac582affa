"""The stages of a causal model: export, fusion, weights, evaluation, report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from appliance.bundle.manifest import KV_SCALES_NAME
from quantize.decoders.stages import DecoderStages
from quantize.evaluation import texts
from quantize.evaluation.answers import compare_answers, load_answers, task_metrics, write_answers
from quantize.evaluation.decoder import evaluate_decoder
from quantize.evaluation.distribution import Distribution
from quantize.evaluation.findings import Findings
from quantize.fusion.export import DECODER_TASK
from quantize.fusion.fuse import fuse_file
from quantize.package import Ingredients, context_length, decoder_spec
from quantize.pipeline import StageOutput
from quantize.precision.search import load_tries
from quantize.precision.sensitivity import load_sensitivity
from quantize.run import Metrics, Run, evaluated, exported, input_sha256
from quantize.sources.decoder_config import DecoderConfig, read_decoder_config


def run_decoder(run: Run, checkpoint: Path) -> Ingredients:
    """Run or resume every stage up to the ingredients of the bundle."""
    recipe = run.recipe
    config = read_decoder_config(checkpoint)
    spec = decoder_spec(config, checkpoint, recipe)
    fused = fused_graph(run, checkpoint, config)
    stages = DecoderStages(run, checkpoint, spec, fused)
    weights, kv_scales = stages.weights(), stages.kv_scales()

    def measure(target: Path, report: Callable[[float], None]) -> Metrics:
        found = evaluate_decoder(fused.folder, weights.folder, checkpoint, spec, lambda done: report(done / 3))
        Distribution.of(found.kl).save(target)
        cached = stages.int8_cache_metrics(lambda done: report((1 + done) / 3))
        answers = compare_answers(fused.folder, weights.folder, checkpoint, spec, lambda done: report((2 + done) / 3))
        write_answers(target, answers)
        return found.metrics | cached | task_metrics(answers)

    inputs = {"fused": fused.key, "weights": weights.key, "kv": kv_scales.key}
    report, folder = evaluated(run, inputs, measure, texts.DESCRIPTION)
    is_searched = recipe.weights.is_searched
    findings = Findings(
        tries=tuple(load_tries(stages.search().folder)) if is_searched else (),
        sensitivity=load_sensitivity(stages.sensitivity().folder) if is_searched else {},
        widths=stages.widths() if is_searched else {},
        distribution=Distribution.load(folder),
        answers=tuple(load_answers(folder)),
    )
    sha256 = input_sha256(recipe, run.source.sha256)
    return Ingredients(
        recipe,
        run.source,
        checkpoint,
        weights.folder,
        stages.memory_spec(),
        report,
        sha256,
        findings,
        kv_scales.folder / KV_SCALES_NAME,
    )


def fused_graph(run: Run, checkpoint: Path, config: DecoderConfig) -> StageOutput:
    """The float graph that the engine runs."""
    exported_graph = exported(run, checkpoint, DECODER_TASK)
    positions = context_length(config, run.recipe)

    def fuse(target: Path) -> None:
        fuse_file(exported_graph.folder, target, config, context_length=positions)

    return run.stage("fuse", {"export": exported_graph.key, "positions": positions}, fuse)

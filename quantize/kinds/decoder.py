"""The stages of a causal model: export, fusion, calibration, weights in the widths of the scheme, evaluation.

A stage imports its libraries when it runs, so that a build whose stages are all done never loads torch.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from appliance.bundle.manifest import KV_SCALES_NAME, MODEL_NAME
from appliance.bundle.targets import Arithmetic, hardest_of
from appliance.errors import QuantizeError
from quantize.evaluation.distribution import Distribution
from quantize.evaluation.findings import Findings
from quantize.evaluation.metrics import save_metrics
from quantize.fusion.export import DECODER_TASK
from quantize.graph.codec import Bits
from quantize.kinds.kind import EVALUATE, Folders, Kind, Outcome
from quantize.kinds.shared import export, model_files
from quantize.pipeline import Step, stage
from quantize.precision.floor import check_reachable
from quantize.progress import SILENT, Progress
from quantize.recipe import DEFAULT_MAX_KL, SEARCHED, CalibrationPart, Recipe, Scheme, WeightsPart
from quantize.sources.checkpoint import read_json
from quantize.sources.decoder_config import read_decoder_config
from quantize.sources.decoder_keys import why_not_searched
from quantize.spec import ModelSpec, decoder_spec, graph_spec, load_graph_spec, save_graph_spec

if TYPE_CHECKING:
    from quantize.precision.parts import Part, Widths


class SearchPart(TypedDict):
    """The target of a search, KL or megabytes, and the arithmetic by which it measures."""

    max_kl: float | None
    max_mb: float | None
    arithmetic: Arithmetic


class FitPart(TypedDict):
    """The widths of a scheme, and the patterns of those parts that get int8 if no search decides."""

    widths: tuple[Bits, ...]
    int8: tuple[str, ...] | None


_WIDTHS: Mapping[Scheme, tuple[Bits, ...]] = {
    "int8": (8,),
    "int4": (4, 8),
    "auto": (4, 8),
    "packed": (4, 5, 6, 8),
}
# SmolLM2-135M in int8 has KL .0022 with smoothing, .0044 without. Codes of fewer bits lose by it: at 100 MB in mixed
# precision .032 with 0.5, .030 without.
_SMOOTHING: Mapping[Scheme, float] = {"int8": 0.5, "int4": 0.0, "auto": 0.0, "packed": 0.0}


def stages(recipe: Recipe) -> tuple[Step, ...]:
    """List the stages in order, each with its part of the recipe and the stages that it reads."""
    part = recipe.weights
    searched, strength = part.is_searched, _smoothing(part)
    smoothed = "smooth" if strength else None
    is_exported = recipe.export != "direct"
    return (
        export.step(DECODER_TASK, needed=is_exported, kept=False, source="source", checkpoint="checkpoint"),
        fuse.step(
            recipe.context_length,
            source="source",
            checkpoint="checkpoint",
            exported="export" if is_exported else None,
        ),
        witness.step(source="source", checkpoint="checkpoint", fused="fuse"),
        calibrate.step(recipe.calibration, checkpoint="checkpoint", fused="fuse"),
        smooth.step(strength, needed=strength > 0, fused="fuse", calibration="calibrate"),
        fit.step(
            {"widths": _WIDTHS[part.scheme], "int8": part.int8 if part.scheme == "int4" else None},
            fused="fuse",
            smoothed=smoothed,
            calibration="calibrate",
        ),
        sensitivity.step(
            needed=searched,
            source="source",
            checkpoint="checkpoint",
            fused="fuse",
            smoothed=smoothed,
            fitted="fit",
            calibration="calibrate",
        ),
        search.step(
            _search_part(recipe),
            needed=searched,
            checkpoint="checkpoint",
            fused="fuse",
            smoothed=smoothed,
            fitted="fit",
            sensitivity="sensitivity",
        ),
        head.step(needed=part.head == "int4", fused="fuse", calibration="calibrate"),
        weights.step(
            _int8_patterns(part),
            fused="fuse",
            smoothed=smoothed,
            fitted="fit",
            allocation="search" if searched else None,
            head="head" if part.head == "int4" else None,
        ),
        evaluate.step(checkpoint="checkpoint", fused="fuse", weights="weights", kv_scales="fit"),
    )


@stage("fuse", version=4)
def fuse(
    target: Path,
    longest_context: int,
    progress: Progress,
    *,
    source: Path,
    checkpoint: Path,
    exported: Path | None = None,
) -> None:
    """Write the float graph that the engine runs, and its spec: from optimum's export, or from the tensors."""
    config = read_decoder_config(checkpoint)
    spec = graph_spec(config, checkpoint, longest_context)
    if exported is None:
        from quantize.builder.decoder import build_decoder
        from quantize.builder.weights import weights_of

        build_decoder(weights_of(source, checkpoint), config, target, context_length=spec.context_length)
    else:
        from quantize.fusion.fuse import fuse_file

        fuse_file(exported, target, config, context_length=spec.context_length)
    save_graph_spec(target, spec)


@stage("witness", version=1)
def witness(target: Path, part: None, progress: Progress, *, source: Path, checkpoint: Path, fused: Path) -> None:
    """Hold the float graph against transformers, and measure its perplexity near and far."""
    from quantize.witness.decoder import witness_decoder
    from quantize.witness.verdict import save_witness

    save_witness(target, witness_decoder(source, checkpoint, fused, load_graph_spec(fused), target, progress))


@stage("calibrate", version=2)
def calibrate(target: Path, part: CalibrationPart, progress: Progress, *, checkpoint: Path, fused: Path) -> None:
    """Write the windows of tokens to which everything is fitted."""
    from quantize.precision.calibration import calibration_windows, save_windows

    save_windows(target, calibration_windows(checkpoint, fused, load_graph_spec(fused), part, progress))


@stage("smooth", version=1)
def smooth(target: Path, strength: float, progress: Progress, *, fused: Path, calibration: Path) -> None:
    """Write the factors that give the channels of the float graph an even size."""
    from quantize.precision.calibration import load_windows
    from quantize.precision.smoothing import smooth_file

    smooth_file(fused, target, load_windows(calibration), strength, progress)


@stage("fit", version=6)
def fit(
    target: Path, part: FitPart, progress: Progress, *, fused: Path, calibration: Path, smoothed: Path | None = None
) -> None:
    """Write every matrix in each width that it may get, and the scales with which a device can keep K/V in int8."""
    from quantize.precision.calibration import load_windows
    from quantize.precision.fit import fit_matrices

    windows, spec = load_windows(calibration), load_graph_spec(fused)
    fit_matrices(fused, target, part["widths"], windows, spec, progress, smoothed=smoothed, int8=part["int8"])


@stage("sensitivity", version=2)
def sensitivity(
    target: Path,
    part: None,
    progress: Progress,
    *,
    source: Path,
    checkpoint: Path,
    fused: Path,
    fitted: Path,
    calibration: Path,
    smoothed: Path | None = None,
) -> None:
    """Write the KL that the narrowest width costs each part."""
    from quantize.builder.weights import weights_of
    from quantize.graph.factors import Factors
    from quantize.precision.calibration import load_windows
    from quantize.precision.sensitivity import measure_sensitivity
    from quantize.precision.torch_blocks import TorchBlocks

    factors, parts = Factors.load(smoothed), _parts(fused, fitted)
    blocks = TorchBlocks.canonical(checkpoint, weights_of(source, checkpoint))
    measure_sensitivity(blocks, fitted, factors, parts, load_windows(calibration), target, progress)


@stage("search", version=3)
def search(
    target: Path,
    part: SearchPart,
    progress: Progress,
    *,
    checkpoint: Path,
    fused: Path,
    fitted: Path,
    sensitivity: Path,
    smoothed: Path | None = None,
) -> None:
    """Write the allocation of widths that reaches the recipe's target, and all that were tried."""
    from quantize.evaluation.arithmetic import evaluate_with
    from quantize.evaluation.decoder import Reference
    from quantize.precision.fitted import load_errors
    from quantize.precision.mixed import write_mixed
    from quantize.precision.search import Order, best_within, smallest_within, write_result
    from quantize.precision.sensitivity import load_sensitivity

    spec = load_graph_spec(fused)
    order = Order.create(_parts(fused, fitted), load_sensitivity(sensitivity), load_errors(fitted))
    with Reference(fused, checkpoint, spec, target) as reference:

        def measure(widths: Widths) -> tuple[int, Mapping[str, float]]:
            with tempfile.TemporaryDirectory(dir=target) as name:
                folder = Path(name)
                write_mixed(fused, fitted, folder, spec, widths, smoothed=smoothed)
                found = evaluate_with(reference, folder, spec, part["arithmetic"], target, SILENT)
                return _size_bytes(folder), found.metrics

        if part["max_kl"] is not None:
            tries = smallest_within(order, part["max_kl"], measure, progress)
        else:
            order, tries = best_within(order, int((part["max_mb"] or 0) * 1e6), measure, progress)
    write_result(target, order, tries)


@stage("head", version=1)
def head(target: Path, part: None, progress: Progress, *, fused: Path, calibration: Path) -> None:
    """Write the head in 4 bits."""
    from quantize.precision.calibration import load_windows
    from quantize.precision.head import fit_head

    fit_head(fused, target, load_windows(calibration), progress)


@stage("weights", version=5)
def weights(
    target: Path,
    int8: tuple[str, ...],
    progress: Progress,
    *,
    fused: Path,
    fitted: Path,
    allocation: Path | None = None,
    head: Path | None = None,
    smoothed: Path | None = None,
) -> None:
    """Write the quantized graph in the widths of the search, or else of the patterns; and its spec with its memory."""
    import onnx_ir as ir

    from quantize.precision.matrices import table_scale_bytes
    from quantize.precision.mixed import unpacked_bytes, widths_by_pattern, write_mixed
    from quantize.precision.search import load_allocation

    spec, parts = load_graph_spec(fused), _parts(fused, fitted)
    widths = widths_by_pattern(parts, int8) if allocation is None else load_allocation(allocation)
    write_mixed(fused, fitted, target, spec, widths, smoothed=smoothed, head=head)
    kept, passing = unpacked_bytes(parts, widths)
    kept += table_scale_bytes(ir.load(fused / MODEL_NAME).graph)
    if kept:
        files = _size_bytes(target)
        spec = spec.model_copy(update={"weights_bytes": files + kept, "loading_bytes": files + kept + passing})
    save_graph_spec(target, spec)


@stage("evaluate", version=5)
def evaluate(
    target: Path, part: None, progress: Progress, *, checkpoint: Path, fused: Path, weights: Path, kv_scales: Path
) -> None:
    """Measure the quantized graph against the float graph: divergence by each arithmetic, with int8 keys; answers."""
    from quantize.evaluation.answers import compare_answers, task_metrics, write_answers
    from quantize.evaluation.arithmetic import arithmetic_metrics
    from quantize.evaluation.decoder import Reference, evaluate_decoder
    from quantize.precision.kv_scales import int8_cache_metrics

    spec = load_graph_spec(fused)
    with_floats, elsewhere, with_int8, answering = progress.parts(4)
    with Reference(fused, checkpoint, spec, target) as reference:
        found = evaluate_decoder(reference, weights, spec, with_floats)
        Distribution.of(found.kl).save(target)
        metrics = found.metrics | arithmetic_metrics(reference, weights, spec, found.metrics, target, elsewhere)
        if (kv_scales / KV_SCALES_NAME).is_file():  # bundles of earlier versions have none
            metrics |= int8_cache_metrics(reference, weights, kv_scales, spec, target, with_int8)
    answers = compare_answers(fused, weights, checkpoint, spec, answering)
    write_answers(target, answers)
    save_metrics(target, metrics | task_metrics(answers))


def _describe(recipe: Recipe, checkpoint: Path) -> ModelSpec:
    config, part = read_decoder_config(checkpoint), recipe.weights
    if part.is_searched and (why := why_not_searched(read_json(checkpoint / "config.json"))):
        raise QuantizeError(f"{config.architecture} cannot be built in {part.scheme}: {why}; use --scheme int8 or int4")
    if part.max_mb is not None:
        searched = {str(scheme): _WIDTHS[scheme] for scheme in sorted(SEARCHED)}
        check_reachable(read_json(checkpoint / "config.json"), searched, part.scheme, part.max_mb)
    return decoder_spec(config, checkpoint, recipe)


def _collect(recipe: Recipe, spec: ModelSpec, folders: Folders) -> Outcome:
    from quantize.evaluation.answers import load_answers

    stored = load_graph_spec(folders["weights"])
    memory = {"weights_bytes": stored.weights_bytes, "loading_bytes": stored.loading_bytes}
    distribution, answers = Distribution.load(folders[EVALUATE]), tuple(load_answers(folders[EVALUATE]))
    findings = Findings(distribution=distribution, answers=answers)
    if recipe.weights.is_searched:
        from quantize.precision.search import load_allocation, load_tries
        from quantize.precision.sensitivity import load_sensitivity

        findings = Findings(
            tries=tuple(load_tries(folders["search"])),
            sensitivity=load_sensitivity(folders["sensitivity"]),
            widths=load_allocation(folders["search"]),
            distribution=distribution,
            answers=answers,
        )
    files = {**model_files(folders["weights"]), KV_SCALES_NAME: folders["fit"] / KV_SCALES_NAME}
    return Outcome(spec.model_copy(update=memory), files, findings)


def _smoothing(part: WeightsPart) -> float:
    return _SMOOTHING[part.scheme] if part.smoothing is None else part.smoothing


def _search_part(recipe: Recipe) -> SearchPart:
    """Return the KL that is allowed or the size; a searched scheme has one of them."""
    part = recipe.weights
    max_kl = None if part.max_mb is not None else part.max_kl or DEFAULT_MAX_KL
    return {"max_kl": max_kl, "max_mb": part.max_mb, "arithmetic": hardest_of(recipe.target)}


def _int8_patterns(part: WeightsPart) -> tuple[str, ...]:
    """Return the patterns of the parts that stay int8; a search chooses them instead."""
    if part.is_searched:
        return ()
    return ("*",) if part.scheme == "int8" else part.int8


def _parts(fused: Path, fitted: Path) -> list[Part]:
    """Return all parts that were fitted, in the order in which they run."""
    from quantize.precision.fitted import load_errors
    from quantize.precision.matrices import HEAD
    from quantize.precision.mixed import decoder_parts

    return decoder_parts(fused, load_graph_spec(fused), with_head=HEAD in load_errors(fitted))


def _size_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


DECODER = Kind(stages, _describe, _collect, reference="fuse")

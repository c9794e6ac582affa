"""The stages of a causal model: float graph, witness, calibration, fit, search, weights, evaluation.

A stage imports its libraries when it runs, so that a build whose stages are all done never loads torch.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from appliance.bundle.manifest import KV_SCALES_NAME, MODEL_NAME
from appliance.bundle.targets import Arithmetic, stock_arithmetic
from appliance.host.processor import processor_kind
from quantize.evaluation.distribution import Distribution
from quantize.evaluation.metrics import Metrics, save_metrics
from quantize.graph.codec import Bits
from quantize.pipeline import stage
from quantize.progress import SILENT, Progress
from quantize.recipe import CalibrationPart
from quantize.sources.decoder_config import read_decoder_config
from quantize.spec import graph_spec, load_graph_spec, save_graph_spec, with_memory

if TYPE_CHECKING:
    from quantize.precision.parts import Part, Patterns, Widths


class SearchPart(TypedDict):
    """The target of a search, KL or megabytes, and the arithmetic by which it measures."""

    max_kl: float | None
    max_mb: float | None
    arithmetic: Arithmetic


class DecidedPart(TypedDict):
    """The widths that a recipe decides: patterns of the parts with more than 4 bits, and the head's bits."""

    patterns: Patterns
    head_bits: Bits


class FitPart(TypedDict):
    """The widths of a scheme, and the patterns of the parts with more than 4 bits if they are decided."""

    widths: tuple[Bits, ...]
    patterns: Patterns | None


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


@stage("calibrate", version=3)
def calibrate(target: Path, part: CalibrationPart, progress: Progress, *, checkpoint: Path, fused: Path) -> None:
    """Write the windows of tokens to which everything is fitted."""
    from quantize.precision.calibration import calibration_windows, save_windows

    spec = load_graph_spec(fused)
    save_windows(target, calibration_windows(checkpoint, fused, spec, part, progress, scratch=target))


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
    fit_matrices(fused, target, part["widths"], windows, spec, progress, smoothed=smoothed, patterns=part["patterns"])


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


@stage("search", version=4)
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
    from quantize.evaluation.arithmetic import evaluate_with, save_measured
    from quantize.evaluation.decoder import Reference
    from quantize.precision.fitted import load_errors
    from quantize.precision.mixed import write_mixed
    from quantize.precision.search import Order, best_within, smallest_within, write_result
    from quantize.precision.sensitivity import load_sensitivity

    spec = load_graph_spec(fused)
    order = Order.create(_parts(fused, fitted), load_sensitivity(sensitivity), load_errors(fitted))
    measured: list[tuple[Widths, Metrics]] = []
    with Reference(fused, checkpoint, spec, target) as reference:
        reference.save(target)

        def measure(widths: Widths) -> tuple[int, Metrics]:
            with tempfile.TemporaryDirectory(dir=target) as name:
                folder = Path(name)
                write_mixed(fused, fitted, folder, spec, widths, smoothed=smoothed)
                found = evaluate_with(reference, folder, spec, part["arithmetic"], target, SILENT)
                measured.append((widths, found.metrics))
                return _size_bytes(folder), found.metrics

        if part["max_kl"] is not None:
            tries = smallest_within(order, part["max_kl"], measure, progress)
        else:
            order, tries = best_within(order, int((part["max_mb"] or 0) * 1e6), measure, progress)
    write_result(target, order, tries)
    chosen = order.widths(tries[-1].num_steps)
    save_measured(target, part["arithmetic"], next(metrics for widths, metrics in measured if widths == chosen))


@stage("head", version=1)
def head(target: Path, bits: Bits, progress: Progress, *, fused: Path, calibration: Path) -> None:
    """Write the head in fewer than 8 bits."""
    from quantize.precision.calibration import load_windows
    from quantize.precision.head import fit_head

    fit_head(fused, target, load_windows(calibration), progress, bits=bits)


@stage("weights", version=9)
def weights(
    target: Path,
    part: DecidedPart | None,
    progress: Progress,
    *,
    fused: Path,
    fitted: Path,
    allocation: Path | None = None,
    head: Path | None = None,
    smoothed: Path | None = None,
) -> None:
    """Write the quantized graph in the widths of the search, or else of the recipe; and its spec with its memory."""
    import onnx_ir as ir

    from quantize.precision.matrices import HEAD, table_scale_bytes
    from quantize.precision.mixed import decoder_parts, unpacked_bytes, widths_by_pattern, write_mixed
    from quantize.precision.search import load_allocation

    spec, parts = load_graph_spec(fused), _parts(fused, fitted)
    if part is None:
        assert allocation is not None
        widths = load_allocation(allocation)
    else:
        widths = widths_by_pattern(parts, part["patterns"])
        if head is not None:
            parts, widths = decoder_parts(fused, spec, with_head=True), {**widths, HEAD: part["head_bits"]}
    write_mixed(fused, fitted, target, spec, widths, smoothed=smoothed, head=head, tiled=True)
    kept, passing = unpacked_bytes(parts, widths)
    kept += table_scale_bytes(ir.load(fused / MODEL_NAME).graph)
    save_graph_spec(target, with_memory(spec, files=_size_bytes(target), kept=kept, passing=passing))


@stage("evaluate", version=6)
def evaluate(
    target: Path,
    part: None,
    progress: Progress,
    *,
    checkpoint: Path,
    fused: Path,
    weights: Path,
    kv_scales: Path,
    searched: Path | None = None,
) -> None:
    """Measure the quantized graph against the float graph: divergence by each arithmetic, with int8 keys; answers.

    What the search has measured of the same weights is not measured again.
    """
    from quantize.evaluation.answers import FloatModel, compare_answers, task_metrics, write_answers
    from quantize.evaluation.arithmetic import arithmetic_metrics, load_measured
    from quantize.evaluation.decoder import Reference, evaluate_decoder
    from quantize.precision.kv_scales import int8_cache_metrics
    from quantize.precision.loadable import loadable_form

    spec = load_graph_spec(fused)
    with_floats, elsewhere, with_int8, answering = progress.parts(4)
    known = {} if searched is None else load_measured(searched)
    with Reference(fused, checkpoint, spec, target, known=searched) as reference:
        found = evaluate_decoder(reference, weights, spec, with_floats)
        Distribution.of(found.kl).save(target)
        if (here := stock_arithmetic(processor_kind())) is not None:
            known[here] = found.metrics
        metrics = found.metrics | arithmetic_metrics(reference, weights, spec, known, target, elsewhere)
        if (kv_scales / KV_SCALES_NAME).is_file():  # bundles of earlier versions have none
            metrics |= int8_cache_metrics(reference, weights, kv_scales, spec, target, with_int8)
    with loadable_form(fused, target) as form:
        answers = compare_answers(FloatModel(fused, form), weights, checkpoint, spec, answering)
    write_answers(target, answers)
    save_metrics(target, metrics | task_metrics(answers))


def _parts(fused: Path, fitted: Path) -> list[Part]:
    """Return all parts that were fitted, in the order in which they run."""
    from quantize.precision.fitted import load_errors
    from quantize.precision.matrices import HEAD
    from quantize.precision.mixed import decoder_parts

    return decoder_parts(fused, load_graph_spec(fused), with_head=HEAD in load_errors(fitted))


def _size_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())

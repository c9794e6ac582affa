"""A causal model: the list of its stages, and its spec, files and findings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from appliance.bundle.manifest import KV_SCALES_NAME
from appliance.bundle.targets import hardest_of
from appliance.errors import QuantizeError
from quantize.evaluation.distribution import Distribution
from quantize.evaluation.findings import Findings
from quantize.fusion.export import DECODER_TASK
from quantize.graph.codec import Bits
from quantize.kinds import decoder_stages as stage
from quantize.kinds.decoder_stages import SearchPart
from quantize.kinds.kind import EVALUATE, Folders, Kind, Outcome
from quantize.kinds.shared import export, model_files
from quantize.pipeline import Step
from quantize.precision.floor import check_reachable
from quantize.recipe import DEFAULT_MAX_KL, SEARCHED, Recipe, Scheme, WeightsPart
from quantize.sources.checkpoint import read_json
from quantize.sources.decoder_config import read_decoder_config
from quantize.sources.decoder_keys import why_not_searched
from quantize.spec import ModelSpec, decoder_spec, load_graph_spec

_WIDTHS: Mapping[Scheme, tuple[Bits, ...]] = {
    "int8": (8,),
    "int4": (4, 8),
    "auto": (4, 8),
    "packed": (4, 5, 6, 8),
}
_HEAD_BITS: Mapping[str, Bits] = {"int8": 8, "int6": 6, "int5": 5, "int4": 4}
# SmolLM2-135M in int8 has KL .0022 with smoothing, .0044 without. Codes of fewer bits lose by it: at 100 MB in mixed
# precision .032 with 0.5, .030 without.
_SMOOTHING: Mapping[Scheme, float] = {"int8": 0.5, "int4": 0.0, "auto": 0.0, "packed": 0.0}


def stages(recipe: Recipe) -> tuple[Step, ...]:
    """List the stages in order, each with its part of the recipe and the stages that it reads."""
    part = recipe.weights
    return (*_float_stages(recipe), *_fitting_stages(recipe), *_writing_stages(part))


def _float_stages(recipe: Recipe) -> tuple[Step, ...]:
    is_exported = recipe.export != "direct"
    exported = "export" if is_exported else None
    return (
        export.step(DECODER_TASK, needed=is_exported, kept=False, source="source", checkpoint="checkpoint"),
        stage.fuse.step(recipe.context_length, source="source", checkpoint="checkpoint", exported=exported),
        stage.witness.step(source="source", checkpoint="checkpoint", fused="fuse"),
        stage.calibrate.step(recipe.calibration, checkpoint="checkpoint", fused="fuse"),
    )


def _fitting_stages(recipe: Recipe) -> tuple[Step, ...]:
    part = recipe.weights
    searched, strength, smoothed = part.is_searched, _smoothing(part), _smoothed(part)
    decided = _patterns(part) if part.scheme == "int4" else None
    return (
        stage.smooth.step(strength, needed=strength > 0, fused="fuse", calibration="calibrate"),
        stage.fit.step(
            {"widths": _WIDTHS[part.scheme], "patterns": decided},
            fused="fuse",
            smoothed=smoothed,
            calibration="calibrate",
        ),
        stage.sensitivity.step(
            needed=searched,
            source="source",
            checkpoint="checkpoint",
            fused="fuse",
            smoothed=smoothed,
            fitted="fit",
            calibration="calibrate",
        ),
        stage.search.step(
            _search_part(recipe),
            needed=searched,
            checkpoint="checkpoint",
            fused="fuse",
            smoothed=smoothed,
            fitted="fit",
            sensitivity="sensitivity",
        ),
        stage.head.step(_HEAD_BITS[part.head], needed=part.head != "int8", fused="fuse", calibration="calibrate"),
    )


def _writing_stages(part: WeightsPart) -> tuple[Step, ...]:
    search = "search" if part.is_searched else None
    return (
        stage.weights.step(
            None if part.is_searched else {"patterns": _patterns(part), "head_bits": _HEAD_BITS[part.head]},
            fused="fuse",
            smoothed=_smoothed(part),
            fitted="fit",
            allocation=search,
            head=None if part.head == "int8" else "head",
        ),
        stage.evaluate.step(checkpoint="checkpoint", fused="fuse", weights="weights", kv_scales="fit", searched=search),
    )


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


def _patterns(part: WeightsPart) -> Mapping[Bits, tuple[str, ...]]:
    """Return the patterns of the parts with more than 4 bits, where no search chooses them; every part is in int8."""
    return {8: ("*",)} if part.scheme == "int8" else {8: part.int8, 6: part.int6, 5: part.int5}


def _smoothed(part: WeightsPart) -> str | None:
    """Return the stage with the factors, if the scheme smooths."""
    return "smooth" if _smoothing(part) else None


def _search_part(recipe: Recipe) -> SearchPart:
    """Return the KL that is allowed or the size; a searched scheme has one of them."""
    part = recipe.weights
    max_kl = None if part.max_mb is not None else part.max_kl or DEFAULT_MAX_KL
    return {"max_kl": max_kl, "max_mb": part.max_mb, "arithmetic": hardest_of(recipe.target)}


DECODER = Kind(stages, _describe, _collect, reference="fuse")

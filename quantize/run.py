"""What every stage of one build shares: recipe, source, stages and progress; and the stages common to both kinds."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from appliance.bundle import EvalReport
from appliance.errors import QuantizeError
from quantize.pipeline import StageOutput, Stages, content_key, tool_versions
from quantize.progress import StageProgress
from quantize.recipe import GatesPart, Recipe
from quantize.sources import checkpoint as checkpoints
from quantize.sources.source import Source

# Raise a number when the stage's code changes what it writes.
VERSIONS = {
    "checkpoint": 1,
    "export": 1,
    "fuse": 3,
    "calibrate": 2,
    "smooth": 1,
    "fit": 4,
    "sensitivity": 2,
    "search": 2,
    "kv-scales": 2,
    "weights": 5,
    "evaluate": 4,
    "package": 2,
}

Metrics = dict[str, float]
Measure = Callable[[Path, Callable[[float], None]], Metrics]

_METRICS_NAME = "metrics.json"
_SIGNIFICANT_DIGITS = 4


@dataclass(frozen=True, slots=True)
class Run:
    """One build under way."""

    recipe: Recipe
    source: Source
    stages: Stages
    progress: StageProgress
    force: bool = False

    def stage(self, name: str, inputs: object, work: Callable[[Path], None]) -> StageOutput:
        """Run one stage, or find its output."""
        return self.stages.run(name, version=VERSIONS[name], inputs=inputs, work=work)


def input_sha256(recipe: Recipe, source_sha256: str) -> str:
    """The identity of all that decides a bundle's bytes: checkpoint, recipe, code and tools."""
    fields = recipe.model_dump(mode="json", exclude={"source", "why"})
    fields["calibration"] = recipe.calibration.identity()
    fields["evaluation"] = recipe.evaluation.identity()
    return content_key({"recipe": fields, "source": source_sha256, "versions": VERSIONS, "tools": tool_versions()})


def float_checkpoint(run: Run) -> Path:
    """The checkpoint's folder with float weights; a GGUF file is dequantized into one."""
    if not run.source.is_gguf:
        checkpoints.check_weights(run.source.path)
        return run.source.path

    def work(target: Path) -> None:
        from quantize.sources.gguf_file import dequantize

        dequantize(run.source.path, target)

    return run.stage("checkpoint", run.source.sha256, work).folder


def exported(run: Run, checkpoint: Path, task: str) -> StageOutput:
    """The float graph by optimum."""

    def work(target: Path) -> None:
        from quantize.fusion.export import export

        export(checkpoint, target, task=task)

    return run.stage("export", {"source": run.source.sha256, "task": task}, work)


def evaluated(run: Run, inputs: object, measure: Measure, text: str) -> tuple[EvalReport, Path]:
    """The metrics, measured or found, held against the recipe's gates; and the folder of what else was measured.

    Raises:
        QuantizeError: a gate fails and the run is not forced.
    """

    def work(target: Path) -> None:
        metrics = measure(target, run.progress.advance_to)
        rounded = {name: rounded_figure(value) for name, value in metrics.items()}
        (target / _METRICS_NAME).write_text(json.dumps(rounded, sort_keys=True))

    folder = run.stage("evaluate", inputs, work).folder
    metrics: Metrics = json.loads((folder / _METRICS_NAME).read_text())
    failed = failed_gates(run.recipe.gates, metrics)
    if failed and not run.force:
        raise QuantizeError(f"the bundle fails its gates: {'; '.join(failed)}; --force builds it all the same")
    return EvalReport(metrics=metrics, text=text, gates_overruled=bool(failed)), folder


def rounded_figure(value: float) -> float:
    """To as many digits as a figure is worth."""
    return float(f"{value:.{_SIGNIFICANT_DIGITS}g}")


def failed_gates(gates: GatesPart, metrics: Metrics) -> list[str]:
    """A clause for each gate that the metrics miss."""
    upper = {"kl_mean": gates.max_kl}
    lower = {
        "top1_agreement": gates.min_top1,
        "cosine_mean": gates.min_cosine_mean,
        "cosine_min": gates.min_cosine,
        "order_agreement": gates.min_order,
    }
    clauses = []
    for name, value in metrics.items():
        most, least = upper.get(name), lower.get(name)
        if most is not None and not value <= most:
            clauses.append(f"{name} is {value}, at most {most} is allowed")
        if least is not None and not value >= least:
            clauses.append(f"{name} is {value}, at least {least} is needed")
    return clauses

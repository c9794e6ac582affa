"""The one shape of every kind of model: its stages in order, and their results for the bundle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from quantize.evaluation.findings import Findings
from quantize.pipeline import Step
from quantize.recipe import Recipe
from quantize.spec import ModelSpec

WITNESS = "witness"  # the stage of every kind whose evidence can stop a build, before the stages that take long
EVALUATE = "evaluate"  # the last stage of every kind

Folders = Mapping[str, Path]  # by the names of the stages that filled them


@dataclass(frozen=True, slots=True)
class Outcome:
    """The results of all stages: the final spec, the model's files by their names in the bundle, and the findings."""

    spec: ModelSpec
    files: Mapping[str, Path]
    findings: Findings


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of model.

    Attributes:
        stages: lists the stages in order for a recipe; they read "source" and "checkpoint", the last is "evaluate".
        describe: derives the spec from the checkpoint, and refuses a checkpoint that cannot become a bundle.
        collect: gathers the results, once every stage has its folder.
        reference: the stage that gives the float graph, against which the quantized one is measured.
        earlier_versions: versions of stages of other kinds that once were part of this kind's identity.
    """

    stages: Callable[[Recipe], tuple[Step, ...]]
    describe: Callable[[Recipe, Path], ModelSpec]
    collect: Callable[[Recipe, ModelSpec, Folders], Outcome]
    reference: str
    earlier_versions: Mapping[str, int] = field(default_factory=dict)

    def versions(self, recipe: Recipe) -> dict[str, int]:
        """Return the versions of all stages by name, for the identity of a bundle."""
        return {**self.earlier_versions, **{step.name: step.stage.version for step in self.stages(recipe)}}

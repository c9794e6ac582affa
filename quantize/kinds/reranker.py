"""The stages of a reranker; of a cross-encoder: a float reference, the int8 graph from the weights, evaluation."""

from __future__ import annotations

from pathlib import Path

from quantize.fusion.export import RERANKER_TASK
from quantize.kinds.kind import Kind
from quantize.kinds.prompted import describe_prompted, prompted_stages
from quantize.kinds.shared import DECODER_VERSIONS, check_scheme, collect_text_model, export, text_smoothing
from quantize.pipeline import Step, stage
from quantize.progress import Progress
from quantize.recipe import Recipe
from quantize.sources.encoder_config import read_encoder_config
from quantize.spec import ModelSpec, reranker_spec


def stages(recipe: Recipe) -> tuple[Step, ...]:
    """List the stages in order, each with its part of the recipe and the stages that it reads."""
    if recipe.scoring is not None:
        return prompted_stages(recipe, recipe.scoring)
    return (
        export.step(RERANKER_TASK, checkpoint="checkpoint"),
        witness.step(source="source", checkpoint="checkpoint", reference="export"),
        weights.step(text_smoothing(recipe), checkpoint="checkpoint"),
        evaluate.step(checkpoint="checkpoint", reference="export", weights="weights"),
    )


@stage("witness", version=1)
def witness(target: Path, part: None, progress: Progress, *, source: Path, checkpoint: Path, reference: Path) -> None:
    """Hold the float graph against transformers."""
    from quantize.witness.text_models import witness_reranker
    from quantize.witness.verdict import save_witness

    spec = reranker_spec(read_encoder_config(checkpoint), checkpoint)
    save_witness(target, witness_reranker(source, checkpoint, reference, spec, progress))


@stage("weights", version=6)
def weights(target: Path, smoothing: float, progress: Progress, *, checkpoint: Path) -> None:
    """Write the int8 graph."""
    from quantize.kinds.encoder_graph.build import build_reranker

    config = read_encoder_config(checkpoint)
    build_reranker(checkpoint, target, config, reranker_spec(config, checkpoint), smoothing=smoothing)


@stage("evaluate", version=5)
def evaluate(target: Path, part: None, progress: Progress, *, checkpoint: Path, reference: Path, weights: Path) -> None:
    """Measure the scores of the int8 graph against those of the float graph."""
    from quantize.evaluation.reranker import reranker_subject
    from quantize.evaluation.text_models import evaluate_text_model

    spec = reranker_spec(read_encoder_config(checkpoint), checkpoint)
    subject = reranker_subject(reference, weights, checkpoint, spec)
    evaluate_text_model(subject, progress).save(target)


def _describe(recipe: Recipe, checkpoint: Path) -> ModelSpec:
    check_scheme(recipe)
    if recipe.scoring is not None:
        return describe_prompted(recipe, recipe.scoring, checkpoint)
    return reranker_spec(read_encoder_config(checkpoint), checkpoint)


RERANKER = Kind(stages, _describe, collect_text_model, reference="export", earlier_versions=DECODER_VERSIONS)

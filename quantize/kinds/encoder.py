"""The stages of a text encoder: a float reference, the int8 graph from the weights, evaluation."""

from __future__ import annotations

from pathlib import Path

from appliance.bundle import EncoderSpec
from quantize.evaluation.similarity import read_rated_pairs
from quantize.fusion.export import ENCODER_TASK
from quantize.fusion.export import export as export_graph
from quantize.kinds.kind import Kind
from quantize.kinds.shared import DECODER_VERSIONS, check_scheme, collect_text_model, text_smoothing
from quantize.pipeline import Step, stage
from quantize.progress import Progress
from quantize.recipe import EvaluationPart, Recipe
from quantize.sources.checkpoint import ENCODERS, architecture_of
from quantize.sources.decoder_config import DecoderConfig, read_decoder_config
from quantize.sources.encoder_config import EncoderConfig, read_encoder_config
from quantize.sources.sentence import read_layout
from quantize.spec import ModelSpec, encoder_spec

_NOT_EXPORTED = frozenset({"nomic_bert"})  # transformers knows them only with code from the hub, which is never run


def stages(recipe: Recipe) -> tuple[Step, ...]:
    """List the stages in order, each with its part of the recipe and the stages that it reads."""
    return (
        export.step(checkpoint="checkpoint"),
        witness.step(source="source", checkpoint="checkpoint", reference="export"),
        weights.step(text_smoothing(recipe), checkpoint="checkpoint"),
        evaluate.step(recipe.evaluation, checkpoint="checkpoint", reference="export", weights="weights"),
    )


@stage("export", version=1)
def export(target: Path, part: None, progress: Progress, *, checkpoint: Path) -> None:
    """Export the float graph with optimum, or write our own if optimum has none, or of a decoder's body."""
    config = _read_config(checkpoint)
    if isinstance(config, EncoderConfig) and config.architecture not in _NOT_EXPORTED:
        export_graph(checkpoint, target, task=ENCODER_TASK)
        return
    from quantize.kinds.encoder_graph.build import build_float_encoder

    build_float_encoder(checkpoint, target, config, read_layout(checkpoint, config))


@stage("witness", version=1)
def witness(target: Path, part: None, progress: Progress, *, source: Path, checkpoint: Path, reference: Path) -> None:
    """Hold the float graph against transformers, and let it find passages that belong together."""
    from quantize.witness.text_models import witness_encoder
    from quantize.witness.verdict import save_witness

    layout = read_layout(checkpoint, _read_config(checkpoint))
    save_witness(target, witness_encoder(source, checkpoint, reference, layout, progress))


@stage("weights", version=6)
def weights(target: Path, smoothing: float, progress: Progress, *, checkpoint: Path) -> None:
    """Write the int8 graph."""
    from quantize.kinds.encoder_graph.build import build_encoder

    config = _read_config(checkpoint)
    build_encoder(checkpoint, target, config, read_layout(checkpoint, config), smoothing=smoothing)


@stage("evaluate", version=5)
def evaluate(
    target: Path, part: EvaluationPart, progress: Progress, *, checkpoint: Path, reference: Path, weights: Path
) -> None:
    """Measure the vectors of the int8 graph against those of the float graph."""
    from quantize.evaluation.encoder import encoder_subject
    from quantize.evaluation.text_models import evaluate_text_model

    config = _read_config(checkpoint)
    layout = read_layout(checkpoint, config)
    dimensions = layout.dimensions(config.output_size)
    spec = EncoderSpec(architecture=config.architecture, dimensions=dimensions, max_tokens=layout.max_tokens)
    rated = [] if part.similarity is None else read_rated_pairs(Path(part.similarity))
    subject = encoder_subject(reference, weights, checkpoint, spec, layout, rated)
    evaluate_text_model(subject, progress).save(target)


def _describe(recipe: Recipe, checkpoint: Path) -> ModelSpec:
    check_scheme(recipe)
    if recipe.evaluation.similarity is not None:
        read_rated_pairs(Path(recipe.evaluation.similarity))  # refused now, not after the other stages
    config = _read_config(checkpoint)
    if isinstance(config, DecoderConfig):
        from quantize.kinds.encoder_graph.body import check_body

        check_body(config, recipe)
    return encoder_spec(config, read_layout(checkpoint, config), checkpoint, recipe)


def _read_config(checkpoint: Path) -> EncoderConfig | DecoderConfig:
    """Parse config.json of an encoder, or of a decoder whose hidden states become a vector."""
    if architecture_of(checkpoint) in ENCODERS:
        return read_encoder_config(checkpoint)
    return read_decoder_config(checkpoint)


ENCODER = Kind(stages, _describe, collect_text_model, reference="export", earlier_versions=DECODER_VERSIONS)

"""The stages of a causal model that scores documents by the word that it would write behind a prompt."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, TypedDict

from appliance.bundle import RerankerSpec
from appliance.bundle.manifest import TOKENIZER_NAME
from appliance.errors import QuantizeError
from appliance.text.tokenizer import Tokenizer
from quantize.pipeline import PARTIAL, Step, stage
from quantize.progress import Progress
from quantize.recipe import Recipe, ScoringPart
from quantize.sources.decoder_config import read_decoder_config
from quantize.spec import ModelSpec, prompted_spec


class Part(TypedDict):
    """The recipe's scoring as JSON, and the longest text."""

    scoring: dict[str, Any]
    context_length: int


def prompted_stages(recipe: Recipe, scoring: ScoringPart) -> tuple[Step, ...]:
    """List the stages in order, each with its part of the recipe and the stages that it reads."""
    part: Part = {"scoring": scoring.model_dump(mode="json"), "context_length": recipe.context_length}
    return (
        export.step(part, source="source", checkpoint="checkpoint"),
        witness.step(part, source="source", checkpoint="checkpoint", reference="export"),
        weights.step(part, source="source", checkpoint="checkpoint"),
        evaluate.step(part, checkpoint="checkpoint", reference="export", weights="weights"),
    )


def describe_prompted(recipe: Recipe, scoring: ScoringPart, checkpoint: Path) -> ModelSpec:
    """Derive the spec.

    Raises:
        QuantizeError: the model has layers other than attention, or the tokenizer lacks one of the words.
    """
    from quantize.kinds.encoder_graph.body import check_body

    config = read_decoder_config(checkpoint)
    check_body(config, recipe)
    answers_of(checkpoint, scoring)
    return prompted_spec(config, checkpoint, scoring, recipe.context_length)


@stage("export", version=1)
def export(target: Path, part: Part, progress: Progress, *, source: Path, checkpoint: Path) -> None:
    """Write the float graph from the tensors."""
    _write_floats(target, part, source, checkpoint)


@stage("witness", version=1)
def witness(target: Path, part: Part, progress: Progress, *, source: Path, checkpoint: Path, reference: Path) -> None:
    """Hold the float graph against transformers."""
    from quantize.witness.text_models import witness_reranker
    from quantize.witness.verdict import save_witness

    answers = answers_of(checkpoint, _scoring(part))
    spec = _spec(part, checkpoint)
    save_witness(target, witness_reranker(source, checkpoint, reference, spec, progress, answers=answers))


@stage("weights", version=1)
def weights(target: Path, part: Part, progress: Progress, *, source: Path, checkpoint: Path) -> None:
    """Write the int8 graph."""
    from quantize.kinds.encoder_graph.build import build_prompted

    with tempfile.TemporaryDirectory(dir=target, prefix=PARTIAL) as floats:
        _write_floats(Path(floats), part, source, checkpoint)
        build_prompted(Path(floats), checkpoint, target, _spec(part, checkpoint))


@stage("evaluate", version=2)
def evaluate(target: Path, part: Part, progress: Progress, *, checkpoint: Path, reference: Path, weights: Path) -> None:
    """Measure the scores of the int8 graph against those of the float graph."""
    from quantize.evaluation.reranker import reranker_subject
    from quantize.evaluation.text_models import evaluate_text_model

    subject = reranker_subject(reference, weights, checkpoint, _spec(part, checkpoint))
    evaluate_text_model(subject, progress).save(target)


def answers_of(checkpoint: Path, scoring: ScoringPart) -> tuple[int, int]:
    """Return the tokens of both words.

    Raises:
        QuantizeError: a word is no token.
    """
    tokenizer = Tokenizer.from_file(checkpoint / TOKENIZER_NAME)
    found = [(word, tokenizer.token_id(word)) for word in (scoring.yes, scoring.no)]
    for word, token in found:
        if token is None:
            raise QuantizeError(f"{word!r} in [scoring] is no token of this model's vocabulary; name one that is")
    yes, no = (token or 0 for _, token in found)
    return yes, no


def _write_floats(target: Path, part: Part, source: Path, checkpoint: Path) -> None:
    from quantize.builder.weights import weights_of
    from quantize.kinds.encoder_graph.scores import build_float_scores

    config, spec = read_decoder_config(checkpoint), _spec(part, checkpoint)
    answers = answers_of(checkpoint, _scoring(part))
    build_float_scores(weights_of(source, checkpoint), config, target, answers, num_positions=spec.max_tokens)


def _scoring(part: Part) -> ScoringPart:
    return ScoringPart.model_validate(part["scoring"])


def _spec(part: Part, checkpoint: Path) -> RerankerSpec:
    return prompted_spec(read_decoder_config(checkpoint), checkpoint, _scoring(part), part["context_length"])

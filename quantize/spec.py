"""The spec of each kind of model, derived from its checkpoint and recipe: the facts that a device must know."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError
from tokenizers import Tokenizer

from appliance.bundle import DecoderSpec, EncoderSpec, RerankerSpec
from appliance.bundle.manifest import MOST_COUNT, TOKENIZER_NAME, SamplingDefaults
from appliance.errors import QuantizeError
from quantize.recipe import Recipe, ScoringPart
from quantize.sources.checkpoint import read_json
from quantize.sources.decoder_config import DecoderConfig
from quantize.sources.encoder_config import EncoderConfig
from quantize.sources.sentence import SentenceLayout, pair_limit

ModelSpec = DecoderSpec | EncoderSpec | RerankerSpec

_GRAPH_SPEC_NAME = "spec.json"
_END_OF_TURN = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<turn|>", "<|end|>")


def decoder_spec(config: DecoderConfig, checkpoint: Path, recipe: Recipe) -> DecoderSpec:
    """Derive the spec of a causal model.

    Raises:
        QuantizeError: no token ends a turn, or the tokenizer is larger than the vocabulary.
    """
    spec = graph_spec(config, checkpoint, recipe.context_length)
    return spec.model_copy(update={"sampling": _sampling(checkpoint, recipe)})


def graph_spec(config: DecoderConfig, checkpoint: Path, longest_context: int) -> DecoderSpec:
    """Derive the part of the spec that describes the graph, for at most so many positions.

    Raises:
        QuantizeError: no token ends a turn, or the tokenizer is larger than the vocabulary.
    """
    tokenizer = Tokenizer.from_file(str(checkpoint / TOKENIZER_NAME))
    _check_vocabulary(tokenizer, config.vocab_size)
    ends = {tokenizer.token_to_id(token) for token in _END_OF_TURN} | set(config.eos_token_ids)
    eos = tuple(sorted(token for token in ends if token is not None and token < config.vocab_size))
    if not eos:
        raise QuantizeError("neither config.json nor the tokenizer names a token that ends the text")
    return DecoderSpec(
        architecture=config.architecture,
        context_length=min(config.max_positions, longest_context),
        vocab_size=config.vocab_size,
        num_layers=config.num_layers,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        kv_shapes=_kv_shapes(config),
        bos_token_id=config.bos_token_id,
        eos_token_ids=eos,
    )


def _kv_shapes(config: DecoderConfig) -> tuple[tuple[int, int] | None, ...] | None:
    """Return each layer's keys and values where attention differs from layer to layer."""
    design = config.design
    if len({*design.head_dims}) == 1 and all(layer == at for at, layer in enumerate(design.kv_layers)):
        return None
    return tuple(
        (config.num_kv_heads, design.head_dims[layer]) if design.keeps_kv(layer) else None
        for layer in range(config.num_layers)
    )


def with_memory(spec: DecoderSpec, *, files: int, kept: int, passing: int) -> DecoderSpec:
    """Add what a model takes in memory: its files, `kept` bytes beyond them, and `passing` ones while 0.1.0 loads it.

    Devices of 0.1.0 refuse a manifest with a `loading_bytes` above 2 GiB; these then find out in the trial.
    """
    loading = min(files + kept + passing, MOST_COUNT)
    return DecoderSpec.model_validate(
        {**spec.model_dump(), "weights_bytes": files + kept if kept else None, "loading_bytes": loading}
    )


def save_graph_spec(folder: Path, spec: DecoderSpec) -> None:
    """Write the spec beside the graph that it describes."""
    (folder / _GRAPH_SPEC_NAME).write_text(spec.model_dump_json(), encoding="utf-8")


def load_graph_spec(folder: Path) -> DecoderSpec:
    """Read the spec of a stage's graph."""
    return DecoderSpec.model_validate_json((folder / _GRAPH_SPEC_NAME).read_bytes())


def encoder_spec(
    config: EncoderConfig | DecoderConfig, layout: SentenceLayout, checkpoint: Path, recipe: Recipe
) -> EncoderSpec:
    """Derive the spec of a text encoder; the recipe's prompts replace the checkpoint's.

    Raises:
        QuantizeError: the tokenizer is larger than the vocabulary, or the default prompt is not there.
    """
    _check_vocabulary(Tokenizer.from_file(str(checkpoint / TOKENIZER_NAME)), config.vocab_size)
    prompts = recipe.prompts or dict(layout.prompts)
    dimensions = layout.dimensions(config.output_size)
    if too_long := [length for length in recipe.matryoshka_dimensions if length >= dimensions]:
        raise QuantizeError(f"matryoshka_dimensions has {too_long[0]}, but the vectors have {dimensions} dimensions")
    default = recipe.default_prompt_name or (None if recipe.prompts else layout.default_prompt_name)
    try:
        return EncoderSpec(
            architecture=config.architecture,
            dimensions=dimensions,
            max_tokens=min(layout.max_tokens, recipe.context_length),
            matryoshka_dimensions=recipe.matryoshka_dimensions,
            prompts=prompts,
            default_prompt_name=default,
        )
    except ValidationError as err:
        raise QuantizeError(f"the prompts are not valid: {err.errors()[0]['msg']}") from err


def prompted_spec(config: DecoderConfig, checkpoint: Path, scoring: ScoringPart, longest_context: int) -> RerankerSpec:
    """Derive the spec of a causal model that scores, for at most so many positions.

    Raises:
        QuantizeError: the tokenizer is larger than the vocabulary.
    """
    _check_vocabulary(Tokenizer.from_file(str(checkpoint / TOKENIZER_NAME)), config.vocab_size)
    longest = min(config.max_positions, longest_context)
    return RerankerSpec(architecture=config.architecture, max_tokens=longest, prompt=scoring.prompt)


def reranker_spec(config: EncoderConfig, checkpoint: Path) -> RerankerSpec:
    """Derive the spec of a cross-encoder.

    Raises:
        QuantizeError: the tokenizer is larger than the vocabulary.
    """
    _check_vocabulary(Tokenizer.from_file(str(checkpoint / TOKENIZER_NAME)), config.vocab_size)
    return RerankerSpec(architecture=config.architecture, max_tokens=pair_limit(checkpoint, config))


def _sampling(checkpoint: Path, recipe: Recipe) -> SamplingDefaults:
    """Take the recipe's defaults, else those that generation_config.json recommends."""
    path = checkpoint / "generation_config.json"
    if recipe.sampling != SamplingDefaults() or not path.is_file():
        return recipe.sampling
    raw = read_json(path)
    if raw.get("do_sample") is not True:
        return recipe.sampling
    try:
        return SamplingDefaults.model_validate({name: raw.get(name) for name in ("temperature", "top_p", "top_k")})
    except ValidationError as err:
        raise QuantizeError(f"generation_config.json recommends what is not valid: {err.errors()[0]['msg']}") from err


def _check_vocabulary(tokenizer: Tokenizer, vocab_size: int) -> None:
    known = tokenizer.get_vocab_size(with_added_tokens=False)
    if known > vocab_size:
        raise QuantizeError(f"the tokenizer has {known} tokens, but config.json says {vocab_size}")

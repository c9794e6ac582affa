"""A checkpoint's folder as it was published, read as a whole: every key and every tensor is used, left out, or refused.

Reading touches headers and small files only; `prepare` writes what was read as the folder that later stages work on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.errors import QuantizeError
from quantize.sources.census import decoder_shapes
from quantize.sources.decoder_keys import read_decoder_keys
from quantize.sources.encoder_census import encoder_shapes
from quantize.sources.encoder_config import ENCODERS, read_encoder_keys
from quantize.sources.families import DECODERS, NESTED
from quantize.sources.fields import Fields, read_json, shown
from quantize.sources.folder import inside, read_weight_files
from quantize.sources.generation import read_generation
from quantize.sources.matching import Weights, match_decoder, match_encoder
from quantize.sources.modules import pools_hidden_states
from quantize.sources.quantized import read_quantization

__all__ = [
    "DECODERS",
    "ENCODERS",
    "Checkpoint",
    "architecture_of",
    "is_reranker",
    "is_text_model",
    "read_checkpoint",
    "read_json",
]

_CLASSIFIER = "ForSequenceClassification"
_GENERATION = "generation_config.json"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint's content: the canonical config.json, its weights, and the reason for each part that is left out.

    `left_out` has keys like `config.json: use_cache` and the names of tensors and files.
    """

    folder: Path
    config: Mapping[str, Any]
    generation: Mapping[str, Any]
    weights: Weights
    left_out: Mapping[str, str]

    @property
    def architecture(self) -> str:
        """Return the model type."""
        return str(self.config["model_type"])


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read and check everything but the tokenizer and the files around it.

    Raises:
        QuantizeError: naming the key, the tensor or the file that stands in the way.
    """
    architecture = architecture_of(folder)
    raw = dict(read_json(inside(folder, "config.json")))
    left_out: dict[str, str] = {}
    quantization = read_quantization(raw)
    generation: Mapping[str, Any] = {}
    if architecture in DECODERS:
        is_body = pools_hidden_states(folder)
        keys = read_decoder_keys(raw, is_body=is_body)
        generation, reasons = _generation(folder, keys.config)
        left_out |= _prefixed("config.json", keys.left_out) | _prefixed(_GENERATION, reasons)
        files = read_weight_files(folder)
        shapes = decoder_shapes(keys.config, is_body=is_body)
        weights = match_decoder(files.tensors, keys, shapes, quantization, is_body=is_body)
        config: Mapping[str, Any] = keys.config
    else:
        found = read_encoder_keys(raw)
        scores = is_reranker(folder)
        left_out |= _prefixed("config.json", found.left_out)
        files = read_weight_files(folder)
        shapes = encoder_shapes(found.config, is_reranker=scores)
        weights = match_encoder(files.tensors, found, shapes, is_reranker=scores, quantization=quantization)
        config = found.canonical
    left_out |= {**files.left_out, **weights.left_out}
    return Checkpoint(folder, config, generation, weights, left_out)


def architecture_of(folder: Path) -> str:
    """Return the model type if it is one that can be built.

    Raises:
        QuantizeError: unknown.
    """
    raw = read_json(inside(folder, "config.json"))
    name = raw.get("model_type")
    if isinstance(name, str) and name in NESTED and isinstance(text := raw.get("text_config"), dict):
        found = text.get("model_type", NESTED[name])
        if found != NESTED[name]:
            raise QuantizeError(
                f"text_config in config.json is a {shown(found)}; within {name}, {NESTED[name]} is known"
            )
        return NESTED[name]
    if not isinstance(name, str) or name not in DECODERS | ENCODERS:
        known = ", ".join(sorted(DECODERS | ENCODERS))
        raise QuantizeError(f"config.json names the architecture {shown(name)} (model_type); known are {known}")
    return name


def is_text_model(folder: Path) -> bool:
    """Return True if a checkpoint's texts become vectors or scores: it is an encoder, or pools its hidden states.

    Raises:
        QuantizeError: its architecture is unknown, or modules.json is damaged.
    """
    return architecture_of(folder) in ENCODERS or pools_hidden_states(folder)


def is_reranker(folder: Path) -> bool:
    """Return True if an encoder scores pairs of texts: it has a head with one label.

    Raises:
        QuantizeError: its head has several labels.
    """
    raw = read_json(inside(folder, "config.json"))
    names = raw.get("architectures") or []
    has_head = any(str(name).endswith(_CLASSIFIER) for name in names)
    if raw.get("model_type") not in ENCODERS or not has_head or inside(folder, "1_Pooling").is_dir():
        return False
    labels = raw.get("num_labels") or len(raw.get("id2label") or (0, 1))
    if labels != 1:
        raise QuantizeError(f"config.json has {labels} labels (id2label); a reranker has one")
    return True


def _generation(folder: Path, config: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, str]]:
    """Return the canonical generation_config.json, empty where there is none, and what was left out of it."""
    path = inside(folder, _GENERATION)
    if not path.is_file():
        return {}, {}
    found = read_generation(Fields(read_json(path), _GENERATION, str(config["model_type"])), config["vocab_size"])
    kept: dict[str, Any] = dict(found.sampling)
    if found.bos_token_id is not None:
        kept["bos_token_id"] = found.bos_token_id
    if found.eos_token_ids:
        kept["eos_token_id"] = list(found.eos_token_ids)
    return kept, found.left_out


def _prefixed(file: str, reasons: Mapping[str, str]) -> dict[str, str]:
    return {f"{file}: {name}": why for name, why in reasons.items()}

"""The sentence-transformers folder around a checkpoint: how hidden states become one vector, and how long texts are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tokenizers import Tokenizer

from appliance.bundle.manifest import TOKENIZER_NAME
from appliance.errors import QuantizeError
from quantize.sources.checkpoint import read_json
from quantize.sources.encoder_config import EncoderConfig

Pooling = Literal["mean", "cls"]
_POOLINGS: dict[str, Pooling] = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
_MODULES = ("Transformer", "Pooling", "Normalize")


@dataclass(frozen=True, slots=True)
class SentenceLayout:
    """What the sentence-transformers files say; `prompts` come in front of a text, by what it is for."""

    pooling: Pooling
    max_tokens: int
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None


def read_layout(folder: Path, config: EncoderConfig) -> SentenceLayout:
    """Parse modules.json, the pooling's config.json and sentence_bert_config.json.

    Raises:
        QuantizeError: a module or pooling that the graph cannot do.
    """
    _check_modules(folder)
    raw = read_json(folder / "1_Pooling" / "config.json")
    chosen = sorted(field for field, value in raw.items() if field.startswith("pooling_mode_") and value is True)
    if len(chosen) != 1 or chosen[0] not in _POOLINGS:
        raise QuantizeError(
            f"1_Pooling/config.json asks for {' and '.join(chosen) or 'no pooling'}; mean or cls is known"
        )
    limit = config.max_positions
    if (folder / "sentence_bert_config.json").is_file():
        length = read_json(folder / "sentence_bert_config.json").get("max_seq_length")
        limit = min(limit, length) if isinstance(length, int) and length > 0 else limit
    prompts, default = _prompts(folder)
    if any(prompts.values()) and raw.get("include_prompt") is False:
        raise QuantizeError("1_Pooling/config.json leaves prompts out of the mean, which is not known")
    return SentenceLayout(_POOLINGS[chosen[0]], limit, prompts, default)


def pair_limit(folder: Path, config: EncoderConfig) -> int:
    """Tokens of a query and a document together: what the tokenizer was set to, within the model's positions."""
    path = folder / "tokenizer_config.json"
    length = read_json(path).get("model_max_length") if path.is_file() else None
    return min(config.max_positions, length) if isinstance(length, int) and length > 0 else config.max_positions


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer, neither truncating nor padding."""
    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_NAME))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _prompts(folder: Path) -> tuple[dict[str, str], str | None]:
    """The prompts of config_sentence_transformers.json, and the name of the one that is used where none is named."""
    path = folder / "config_sentence_transformers.json"
    raw = read_json(path) if path.is_file() else {}
    prompts, default = raw.get("prompts") or {}, raw.get("default_prompt_name")
    if not isinstance(prompts, dict) or not all(isinstance(text, str) for text in prompts.values()):
        raise QuantizeError("the prompts in config_sentence_transformers.json are no texts")
    if default is not None and default not in prompts:
        raise QuantizeError(f"config_sentence_transformers.json has no prompt {default!r}, which is to be the default")
    # An empty prompt changes nothing, yet clients may name it.
    return {str(name): text for name, text in prompts.items()}, default


def _check_modules(folder: Path) -> None:
    path = folder / "modules.json"
    if not path.is_file():
        raise QuantizeError("the checkpoint has no modules.json; only sentence-transformers folders are known")
    try:
        modules = [str(entry["type"]).rsplit(".", 1)[-1] for entry in json.loads(path.read_text(encoding="utf-8"))]
    except (ValueError, KeyError, TypeError) as err:
        raise QuantizeError("modules.json is damaged; copy the checkpoint again") from err
    unknown = [name for name in modules if name not in _MODULES]
    if unknown or modules[:2] != ["Transformer", "Pooling"]:
        raise QuantizeError(f"modules.json lists {', '.join(modules)}; Transformer, Pooling and Normalize are known")

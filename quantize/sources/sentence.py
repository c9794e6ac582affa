"""The sentence-transformers folder around a checkpoint: how hidden states become one vector, and how long texts are."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tokenizers import Tokenizer

from appliance.bundle.manifest import TOKENIZER_NAME
from appliance.errors import QuantizeError
from quantize.sources.checkpoint import EncoderConfig, read_json

Pooling = Literal["mean", "cls"]
_POOLINGS: dict[str, Pooling] = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
_MODULES = ("Transformer", "Pooling", "Normalize")


@dataclass(frozen=True, slots=True)
class SentenceLayout:
    """What the sentence-transformers files say."""

    pooling: Pooling
    max_tokens: int


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
    return SentenceLayout(_POOLINGS[chosen[0]], limit)


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer, neither truncating nor padding."""
    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_NAME))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


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

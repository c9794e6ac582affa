"""A checkpoint's tokenizer as tokenizer.json: as published, or made from the older files where that is exact."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from appliance.bundle.manifest import TOKENIZER_NAME
from appliance.errors import QuantizeError
from quantize.quiet import quiet
from quantize.sources.fields import Fields, read_json, shown
from quantize.sources.folder import inside
from quantize.sources.tokenizer_keys import IGNORED, MUST_BE_EMPTY

_CONFIG = "tokenizer_config.json"
_OLDER = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.json", "merges.txt", "vocab.txt")
_BESIDE = (_CONFIG, "special_tokens_map.json", "added_tokens.json")
# Both tokenizers must agree on all of it: letters with marks, digits, blanks, code, other scripts, emoji.
_PROBE = (
    "The quick brown fox, 12345 times; it's naïve – don't! (f(x) == 0)\n\n\tfor i in range(10):\r\n        pass  # ok"
    " Ünïcödé ﬁ ½ 東京 한국어 Привет مرحبا 🙂👩‍👩‍👧 e\u0301 <s> </s> [CLS] [SEP] <|endoftext|>  double  blanks   "
)


@dataclass(frozen=True, slots=True)
class TokenizerFile:
    """The bytes of tokenizer.json, and what was left out with the reason."""

    content: bytes
    left_out: Mapping[str, str]


def read_tokenizer(folder: Path, vocab_size: int) -> TokenizerFile:
    """Return tokenizer.json, made from the older files if it is absent.

    Raises:
        QuantizeError: absent, damaged, larger than the vocabulary, or not to be converted exactly.
    """
    settings = _settings(folder)
    left_out = _check_settings(settings)
    path = inside(folder, TOKENIZER_NAME)
    content = path.read_bytes() if path.is_file() else _converted(folder)
    try:
        raw = json.loads(content)
        Tokenizer.from_str(content.decode())
    except Exception as err:
        reason = (str(err).strip().splitlines() or [type(err).__name__])[0]
        raise QuantizeError(f"{TOKENIZER_NAME} cannot be read: {reason[:200]}") from err
    _check_normalizer(raw, settings)
    trimmed, dropped = within_vocabulary(raw, vocab_size)
    if dropped:
        content = json.dumps(trimmed, ensure_ascii=False, indent=2).encode() + b"\n"
    return TokenizerFile(
        content, left_out | {f"{TOKENIZER_NAME}: {name}": "has no row in the embedding" for name in dropped}
    )


def _settings(folder: Path) -> Mapping[str, Any]:
    path = inside(folder, _CONFIG)
    return read_json(path) if path.is_file() else {}


def _check_settings(settings: Mapping[str, Any]) -> dict[str, str]:
    fields = Fields(settings, _CONFIG, str(settings.get("tokenizer_class") or "a tokenizer"))
    for name in MUST_BE_EMPTY:
        fields.absent(name)
    for name in ("tokenizer_class", "chat_template", "model_max_length"):
        fields.value(name)
    return {f"{_CONFIG}: {name}": why for name, why in fields.left_out(IGNORED).items()}


def within_vocabulary(raw: dict[str, Any], vocab_size: int) -> tuple[dict[str, Any], list[str]]:
    """Return the tokenizer without added tokens that the embedding has no row for, and their texts.

    Raises:
        QuantizeError: a token of the vocabulary itself has none.
    """
    added = {token["content"] for token in raw.get("added_tokens") or ()}
    vocab = (raw.get("model") or {}).get("vocab")
    ids = vocab if isinstance(vocab, dict) else {entry[0]: index for index, entry in enumerate(vocab or ())}
    beyond = [text for text, index in ids.items() if index >= vocab_size and text not in added]
    if beyond:
        raise QuantizeError(
            f"the tokenizer has {max(ids.values()) + 1} tokens, but config.json says {vocab_size} (vocab_size); "
            f"{shown(beyond[0])} has no row in the embedding"
        )
    dropped = [token["content"] for token in raw.get("added_tokens") or () if token["id"] >= vocab_size]
    if not dropped:
        return raw, []
    kept = [token for token in raw["added_tokens"] if token["id"] < vocab_size]
    model = dict(raw["model"])
    if isinstance(vocab, dict):
        model["vocab"] = {text: index for text, index in vocab.items() if index < vocab_size}
    elif vocab:
        model["vocab"] = vocab[:vocab_size]
    return {**raw, "added_tokens": kept, "model": model}, dropped


def _check_normalizer(raw: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Refuse settings that transformers would write over those of tokenizer.json."""
    normalizer = raw.get("normalizer") or {}
    if normalizer.get("type") != "BertNormalizer":
        return
    pairs = {
        "do_lower_case": "lowercase",
        "strip_accents": "strip_accents",
        "tokenize_chinese_chars": "handle_chinese_chars",
    }
    for name, inner in pairs.items():
        if name in settings and settings[name] != normalizer.get(inner):
            raise QuantizeError(
                f"{name} in {_CONFIG} is {shown(settings[name])}, but {inner} in {TOKENIZER_NAME} is "
                f"{shown(normalizer.get(inner))}; make them equal"
            )


def _converted(folder: Path) -> bytes:
    """Return a tokenizer.json made by transformers, which gives the tokens that the older form gives.

    transformers sees no config.json but the kind of model: a configuration's class may load code by its fields
    (CVE-2026-5241). It saves nothing by itself: save_pretrained writes files named by the checkpoint (CVE-2026-9856).
    """
    found = [name for name in _OLDER if inside(folder, name).is_file()]
    if not found:
        raise QuantizeError(
            f"the checkpoint has no {TOKENIZER_NAME} and none of {', '.join(_OLDER)}; copy the tokenizer, too"
        )
    lacking = f"the checkpoint has {', '.join(found)} but no {TOKENIZER_NAME}"
    advice = f"load it with transformers where its packages are installed, save it, and copy {TOKENIZER_NAME} here"
    with tempfile.TemporaryDirectory(prefix="lantern-tokenizer-") as temporary, quiet():
        place = Path(temporary)
        for name in (*found, *_BESIDE):
            if inside(folder, name).is_file():
                shutil.copyfile(folder / name, place / name)
        kind = read_json(inside(folder, "config.json")).get("model_type")
        (place / "config.json").write_text(json.dumps({"model_type": kind}), "utf-8")
        from transformers import AutoTokenizer

        try:
            fast = AutoTokenizer.from_pretrained(place, use_fast=True, trust_remote_code=False, local_files_only=True)
            slow = AutoTokenizer.from_pretrained(place, use_fast=False, trust_remote_code=False, local_files_only=True)
            same = fast.is_fast and not slow.is_fast and fast.encode(_PROBE) == slow.encode(_PROBE)
        except Exception as err:
            reason = " ".join(str(err).split())[:120] or type(err).__name__
            raise QuantizeError(f"{lacking}, and cannot be converted here ({reason}); {advice}") from err
        if not same:
            raise QuantizeError(f"{lacking}, and converting gives other tokens; {advice}")
        text: str = fast.backend_tokenizer.to_str(pretty=True)
        return text.encode()

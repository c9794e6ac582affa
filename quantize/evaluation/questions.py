"""A checkpoint's chat template, and a question in tokens as that template writes it."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from tokenizers import Tokenizer

from appliance.bundle import DecoderSpec
from appliance.bundle.manifest import CHAT_TEMPLATE_NAME
from appliance.text.template import ChatTemplate
from quantize.evaluation.framing import opening
from quantize.sources.checkpoint import read_json

_TODAY = datetime(2026, 1, 1)  # templates may write the date, and the same inputs give the same bytes


def question_tokens(tokenizer: Tokenizer, folder: Path, spec: DecoderSpec, question: str) -> list[int]:
    """Return the prompt's tokens as on a device; the bare question if the folder has no chat template."""
    source = chat_template(folder)
    if source is None:
        return [*opening(tokenizer), *_ids(tokenizer, question)]
    specials = [token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special]
    bos = None if spec.bos_token_id is None else tokenizer.id_to_token(spec.bos_token_id)
    eos = tokenizer.id_to_token(spec.eos_token_ids[0])
    template = ChatTemplate(source, specials, bos_token=bos or "", eos_token=eos or "", now=lambda: _TODAY)
    return _ids(tokenizer, template.render([{"role": "user", "content": question}]).text)


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


def chat_template(checkpoint: Path) -> str | None:
    """Read the chat template, from its own file or from tokenizer_config.json."""
    path = checkpoint / CHAT_TEMPLATE_NAME
    if path.is_file():
        return path.read_text(encoding="utf-8")
    if not (checkpoint / "tokenizer_config.json").is_file():
        return None
    value = read_json(checkpoint / "tokenizer_config.json").get("chat_template")
    if isinstance(value, list):
        named = {entry.get("name"): entry.get("template") for entry in value if isinstance(entry, dict)}
        value = named.get("default")
    return value if isinstance(value, str) else None

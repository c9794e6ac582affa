"""The kinds of input that sentence-transformers gives a model: texts go in as they are, alone or beside other kinds.

Where it knows messages, it writes every text by the chat template, prompt and text being two messages of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from appliance.errors import LanternError, QuantizeError
from appliance.text.template import ChatTemplate
from quantize.sources.fields import Fields, shown
from quantize.sources.templates import read_chat_template

_NAME, _MESSAGE = "modality_config", "message"
_PLAIN = {"method": "forward", "method_output_name": "last_hidden_state"}
_KNOWN: dict[str, dict[str, str]] = {
    **dict.fromkeys(("text", "image", "audio", "video"), _PLAIN),
    _MESSAGE: {**_PLAIN, "format": "structured"},
}
_PROMPT, _TEXT = "task: search | query: ", "  two lines,\n\n the second indented \n"


def check_modalities(fields: Fields, folder: Path) -> None:
    """Refuse a model that does not get a text as it is.

    Raises:
        QuantizeError: naming the modalities, or what the chat template makes of a text.
    """
    found = fields.value(_NAME)
    if found is None:
        return
    if not isinstance(found, dict) or "text" not in found or any(_KNOWN.get(kind) != found[kind] for kind in found):
        raise QuantizeError(
            f"{_NAME} in {fields.where} is {shown(found)}; known are {', '.join(_KNOWN)}, of which last_hidden_state "
            "is read"
        )
    if _MESSAGE in found and (written := _written(folder)) != _PROMPT + _TEXT:
        raise QuantizeError(
            f"{_NAME} in {fields.where} has {_MESSAGE}: sentence-transformers writes texts by the chat template, which "
            f"makes {shown(written)} of {shown(_PROMPT + _TEXT)}; a template that leaves them as they are is known"
        )


def _written(folder: Path) -> str | None:
    """Return what the chat template makes of a prompt and a text; None without a template."""
    source = read_chat_template(folder)
    if source is None:
        return None
    try:
        messages = [_message("system", _PROMPT), _message("user", _TEXT)]
        return ChatTemplate(source, ()).render(messages, add_generation_prompt=False).text
    except LanternError as err:
        raise QuantizeError(f"the chat template cannot write a text, as {_NAME} asks for: {err}") from err


def _message(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "text", "text": text}]}

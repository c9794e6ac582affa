"""The arguments of earlier calls, which may be any text: a client sends back what a model wrote, cut or not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_CLOSING = {"{": "}", "[": "]"}
_MAX_DEPTH = 64


def arguments_object(text: str) -> dict[str, Any]:
    """Return the arguments as the object that templates read.

    Text that is cut is completed as far as it goes; any other value, and text that is no JSON, is the only member of
    an object, since no template takes it by itself.
    """
    if not text.strip():
        return {}
    for candidate in (text, *_completions(text)):
        try:
            value = json.loads(candidate)
        except (ValueError, RecursionError):
            continue
        if value is None:
            return {}
        if "\\ud" in candidate.lower():
            value = _without_lone_surrogates(value)
        return value if isinstance(value, dict) else {"arguments": value}
    return {"arguments": text}


def arguments_text(text: str) -> str:
    """Return the arguments as the JSON text of an object: their own text if it is that."""
    try:
        is_object = isinstance(json.loads(text), Mapping)
    except (ValueError, RecursionError):
        is_object = False
    return text if is_object else json.dumps(arguments_object(text), ensure_ascii=False)


def _without_lone_surrogates(value: object) -> object:
    text = json.dumps(value, ensure_ascii=False)
    return json.loads(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))


def _completions(text: str) -> list[str]:
    """Return the cut text closed: where it ends, and where its last whole member ends."""
    if not text.lstrip().startswith("{"):
        return []
    open_brackets: list[str] = []
    is_string = is_escaped = False
    last_comma: tuple[int, list[str]] | None = None
    for i, character in enumerate(text):
        if is_string:
            is_string = is_escaped or character != '"'
            is_escaped = character == "\\" and not is_escaped
        elif character == '"':
            is_string = True
        elif character in _CLOSING:
            open_brackets.append(character)
        elif character in _CLOSING.values() and open_brackets:
            open_brackets.pop()
        elif character == ",":
            last_comma = (i, list(open_brackets))
        if len(open_brackets) > _MAX_DEPTH:
            return []
    end = text[:-1] if is_escaped else text
    closed = [end + ('"' if is_string else "") + _closing(open_brackets)]
    if last_comma is not None:
        closed.append(text[: last_comma[0]] + _closing(last_comma[1]))
    return [*closed, "{}"] if open_brackets else closed


def _closing(open_brackets: list[str]) -> str:
    return "".join(_CLOSING[bracket] for bracket in reversed(open_brackets))

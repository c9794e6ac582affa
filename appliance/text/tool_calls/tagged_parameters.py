"""Calls as Qwen3-Coder writes them: `<function=NAME><parameter=KEY>value</parameter></function>`."""

from __future__ import annotations

import json

from appliance.text.tool_calls.json_formats import END_TOOL_CALL, TOOL_CALL
from appliance.text.tool_calls.machine import END, CallMachine, Reading

FUNCTION, END_FUNCTION = "<function=", "</function>"
PARAMETER, END_PARAMETER = "<parameter=", "</parameter>"

_TAGS = (PARAMETER, END_FUNCTION, END_TOOL_CALL)
_MAX_NAME_CHARACTERS = 256


class TaggedParametersParser(CallMachine):
    """Text parameters stream as they come; others, and those of unknown type, when they are complete."""

    def _parse(self) -> Reading[None]:
        yield from self._read_calls(self._call, (TOOL_CALL, FUNCTION), (END_TOOL_CALL,), may_be_bare=False)

    def _call(self) -> Reading[None]:
        character = yield from self._next()
        self._give_back()
        if character.isspace() or character == "<":  # after `<tool_call>`, not after `<function=`
            yield from self._next_solid()
            self._give_back()
            yield from self._expect(FUNCTION)
        name = yield from self._tag_name()
        self._start_call(name)
        opening = "{"
        while (tag := (yield from self._tag())) == PARAMETER:
            key = yield from self._tag_name()
            self._arguments(f"{opening}{json.dumps(key, ensure_ascii=False)}: ")
            opening = ", "
            yield from self._parameter(self._tools.takes_text(name, key))
        if self._last == END:
            self._fail()
        self._arguments("{}" if opening == "{" else "}")
        self._end_call()
        if tag not in _TAGS:
            self._raw = list(tag)
            self._fail()

    def _tag_name(self) -> Reading[str]:
        """Read the rest of a tag that names something."""
        pieces: list[str] = []
        character = yield from self._next()
        while character != ">":
            if not character.isprintable() or character in ("", "<") or len(pieces) > _MAX_NAME_CHARACTERS:
                self._fail()
            pieces.append(character)
            character = yield from self._next()
        name = "".join(pieces).strip()
        if not name:
            self._fail()
        return name

    def _tag(self) -> Reading[str]:
        """Read the next of the tags that may follow, or the text in their place."""
        tag = yield from self._next_solid()
        while tag not in _TAGS and tag != END and any(known.startswith(tag) for known in _TAGS):
            character = yield from self._next()
            tag += character
            if character == END:
                break
        return tag

    def _parameter(self, takes_text: bool | None) -> Reading[None]:
        """Read a value up to its closing tag, less one newline at either end."""
        pieces: list[str] = []
        if takes_text:
            self._arguments('"')
        yield from self._copy_text(streams=bool(takes_text), pieces=pieces)
        if takes_text:
            self._arguments('"')
        else:
            text = "".join(pieces)
            value = _json_value(text)
            self._arguments(value if value is not None else json.dumps(text, ensure_ascii=False))

    def _copy_text(self, *, streams: bool, pieces: list[str]) -> Reading[None]:
        held = yield from self._next()
        if held == "\n":
            held = yield from self._next()
        while True:
            closing = held.removeprefix("\n")
            if closing == END_PARAMETER:
                return
            if END_PARAMETER.startswith(closing) and len(held) - len(closing) <= 1:
                character = yield from self._next()
                if character == END:
                    self._fail()
                held += character
                continue
            if streams:
                self._arguments(json.dumps(held[0], ensure_ascii=False)[1:-1])
            else:
                pieces.append(held[0])
            held = held[1:]


def _json_value(text: str) -> str | None:
    """Return the text if it is a JSON value but no string; models also write Python's constants."""
    text = {"True": "true", "False": "false", "None": "null"}.get(text.strip(), text)
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return None
    return None if isinstance(value, str) else text.strip()


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")

"""Calls as Gemma writes them: `call:NAME{key:<escape>text<escape>,n:1}`, with markers around them or without."""

from __future__ import annotations

from appliance.text.tool_calls.machine import END, NotACallError, Reading
from appliance.text.tool_calls.value_machine import Value, ValueCallMachine

OPENINGS = ("<start_function_call>", "<|tool_call>")
CLOSINGS = ("<end_function_call>", "<tool_call|>")
QUOTES = ("<escape>", '<|"|>')

_CALL = "call:"
_MAX_PLAIN_CHARACTERS = 1024


class GemmaParser(ValueCallMachine):
    """FunctionGemma and Gemma 4; each call is given when it is complete."""

    def _parse(self) -> Reading[None]:
        yield from self._read_calls(self._call, OPENINGS, CLOSINGS, may_be_bare=True)

    def _call(self) -> Reading[None]:
        yield from self._next_solid()
        self._give_back()
        yield from self._expect(_CALL)
        name = yield from self._read_while("_.-")
        if not name or (yield from self._next_solid()) != "{":
            self._fail()
        arguments = yield from self._members(0)
        self._finish_call(name, arguments)

    def _members(self, depth: int) -> Reading[dict[str, Value]]:
        self._check_depth(depth)
        members: dict[str, Value] = {}
        character = yield from self._next_solid()
        while character != "}":
            key = yield from self._key(character)
            members[key] = yield from self._value(depth)
            character = yield from self._next_solid()
            if character == ",":
                character = yield from self._next_solid()
            elif character != "}":
                self._fail()
        return members

    def _key(self, first: str) -> Reading[str]:
        if first == "<":
            key = yield from self._escaped()
        elif first == '"':
            key = yield from self._quoted(first)
        else:
            self._give_back()
            key = yield from self._read_while("_-. $")
        if (yield from self._next_solid()) != ":":
            self._fail()
        return key.strip()

    def _value(self, depth: int) -> Reading[Value]:
        character = yield from self._next_solid()
        if character == "<":
            return (yield from self._escaped())
        if character == '"':
            return (yield from self._quoted(character))
        if character == "{":
            return (yield from self._members(depth + 1))
        if character == "[":
            return (yield from self._list(depth + 1))
        return (yield from self._plain(character))

    def _plain(self, first: str) -> Reading[Value]:
        """Read a number, a constant, or a text without quotes."""
        pieces: list[str] = []
        character = first
        while character not in (",", "}", "]"):
            if character in (END, "\n", "{", "[") or len(pieces) > _MAX_PLAIN_CHARACTERS:
                self._fail()
            pieces.append(character)
            character = yield from self._next()
        self._give_back()
        word = "".join(pieces).strip()
        try:
            return self._word_value(word)
        except NotACallError:
            return word

    def _list(self, depth: int) -> Reading[Value]:
        self._check_depth(depth)
        items: list[Value] = []
        character = yield from self._next_solid()
        while character != "]":
            self._give_back()
            items.append((yield from self._value(depth)))
            character = yield from self._next_solid()
            if character == ",":
                character = yield from self._next_solid()
            elif character != "]":
                self._fail()
        return items

    def _escaped(self) -> Reading[str]:
        """Read a string between two of Gemma's own quotes, of which `<` is read."""
        quote = "<"
        while quote not in QUOTES:
            quote += yield from self._next()
            if not any(known.startswith(quote) for known in QUOTES):
                self._fail()
        text = ""
        pieces: list[str] = []
        while text != quote:
            character = yield from self._next()
            if character == END:
                self._fail()
            text += character
            while not quote.startswith(text):
                pieces.append(text[0])
                text = text[1:]
        return "".join(pieces)

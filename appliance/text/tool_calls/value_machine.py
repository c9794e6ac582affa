"""Calls in notations of their own: arguments are read as values and written as JSON when the call is complete."""

from __future__ import annotations

import json
import re

from appliance.text.tool_calls.machine import END, CallMachine, Reading, whole_characters

Value = str | int | float | bool | None | list["Value"] | dict[str, "Value"]

_MAX_DEPTH = 32
_MAX_WORD_CHARACTERS = 256
_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_CONSTANTS: dict[str, bool | None] = {
    "True": True, "true": True, "False": False, "false": False, "None": None, "null": None,
}  # fmt: skip
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "0": "\0", "\n": ""}
_HEX_ESCAPES = {"x": 2, "u": 4, "U": 8}


class ValueCallMachine(CallMachine):
    """A frame that can read quoted strings, numbers and words of Python and of JSON."""

    def _finish_call(self, name: str, arguments: dict[str, Value]) -> None:
        self._whole_call(name, json.dumps(arguments, ensure_ascii=False))

    def _quoted(self, quote: str) -> Reading[str]:
        """Read the rest of a string in one or three quotes, of which the first is read."""
        closing = quote
        character = yield from self._next()
        if character == quote:
            if (yield from self._next()) != quote:
                self._give_back()
                return ""
            closing = quote * 3
            character = yield from self._next()
        pieces: list[str] = []
        num_quotes = 0
        while True:
            if character == END:
                self._fail()
            num_quotes = num_quotes + 1 if character == quote else 0
            if character == "\\":
                pieces.append((yield from self._escape()))
            else:
                pieces.append(character)
            if num_quotes == len(closing):
                return whole_characters("".join(pieces[: -len(closing)]))
            character = yield from self._next()

    def _escape(self) -> Reading[str]:
        character = yield from self._next()
        if character not in _HEX_ESCAPES:
            return _ESCAPES.get(character, character if character in "\\'\"/" else "\\" + character)
        digits = ""
        for _ in range(_HEX_ESCAPES[character]):
            digits += yield from self._next()
        try:
            code = int(digits, 16)
        except ValueError:
            self._fail()
        if code > 0x10FFFF:
            self._fail()
        return chr(code)

    def _word(self) -> Reading[Value]:
        """Read a number or a constant, its first character still to be read."""
        return self._word_value((yield from self._read_while("+-._", limit=_MAX_WORD_CHARACTERS)))

    def _word_value(self, word: str) -> Value:
        if word in _CONSTANTS:
            return _CONSTANTS[word]
        if _INTEGER.fullmatch(word):
            return int(word)
        if not _NUMBER.fullmatch(word):
            self._fail()
        number = float(word)
        if number in (float("inf"), float("-inf")):
            self._fail()
        return number

    def _check_depth(self, depth: int) -> None:
        if depth > _MAX_DEPTH:
            self._fail()

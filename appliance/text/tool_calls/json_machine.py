"""Calls that are JSON objects: arguments pass through to the letter while they come."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

from appliance.text.tool_calls.machine import END, CallMachine, Reading, whole_characters

_NAME_KEYS = ("name", "function")
_ARGUMENTS_KEYS = ("arguments", "parameters")
_OTHER_KEYS = ("id", "type")
_MAX_KEY_CHARACTERS = 256
_WORD = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null", re.ASCII)
_OUTSIDE_STRINGS = frozenset("{}[],:+-.0123456789eEtrufalsn \t\r\n")  # JSON's structure, numbers, true, false, null


@dataclass(slots=True)
class _Draft:
    """A call object while it is read; belongs to the grammar that reads it."""

    name: str | None = None
    arguments: str | None = None
    is_done: bool = False


class JsonCallMachine(CallMachine):
    """A frame that can read call objects, one or a list."""

    def _json_calls(self, *, is_bare: bool) -> Reading[None]:
        """Read one call object, or a list of them.

        Args:
            is_bare: nothing announced a call, so an object must look like one: arguments, and a known name.
        """
        character = yield from self._next_solid()
        if character == "{":
            yield from self._call_object(is_bare=is_bare)
            return
        if character != "[":
            self._fail()
        character = yield from self._next_solid()
        while character == "{":
            yield from self._call_object(is_bare=is_bare)
            character = yield from self._next_solid()
            if character == "]":
                return
            if character == ",":
                character = yield from self._next_solid()
        self._fail()

    def _call_object(self, *, is_bare: bool) -> Reading[None]:
        """Read the rest of a call object; its brace is read."""
        draft = _Draft()
        character = yield from self._next_solid()
        while character != "}":
            key = yield from self._key(character)
            yield from self._member(draft, key, is_bare=is_bare)
            character = yield from self._next_solid()
            if character == ",":
                character = yield from self._next_solid()
            elif character != "}":
                self._fail()
        if draft.is_done:
            return
        if draft.name is None or (is_bare and not self._tools.knows(draft.name)):
            self._fail()
        self._whole_call(draft.name, "{}")

    def _member(self, draft: _Draft, key: str, *, is_bare: bool) -> Reading[None]:
        """Read the value of one key; the call starts as soon as its name is known."""
        if draft.is_done or key in _OTHER_KEYS:
            yield from self._copy_value(_ignore)
        elif key in _NAME_KEYS and draft.name is None:
            draft.name = yield from self._name(is_bare=is_bare)
        elif key in _ARGUMENTS_KEYS and draft.name is not None:
            yield from self._stream_arguments(draft.name)
            draft.is_done = True
        elif key in _ARGUMENTS_KEYS and draft.arguments is None:
            draft.arguments = yield from self._argument_text()
        else:
            self._fail()
        if draft.name is not None and draft.arguments is not None and not draft.is_done:
            self._whole_call(draft.name, draft.arguments)
            draft.is_done = True

    def _key(self, quote: str) -> Reading[str]:
        if quote != '"':
            self._fail()
        key = yield from self._string(limit=_MAX_KEY_CHARACTERS)
        if (yield from self._next_solid()) != ":":
            self._fail()
        return key

    def _name(self, *, is_bare: bool) -> Reading[str]:
        if (yield from self._next_solid()) != '"':
            self._fail()
        name = yield from self._string(limit=_MAX_KEY_CHARACTERS)
        if not name or not name.isprintable() or (is_bare and not self._tools.allows(name)):
            self._fail()
        return name

    def _stream_arguments(self, name: str) -> Reading[None]:
        character = yield from self._next_solid()
        self._give_back()
        if character == "{":
            self._start_call(name)
            yield from self._copy_value(self._arguments)
            self._end_call()
        else:
            self._whole_call(name, (yield from self._argument_text()))

    def _argument_text(self) -> Reading[str]:
        """Read a whole value; models also write the arguments as a string that holds JSON, or null for none."""
        character = yield from self._next_solid()
        if character == '"':
            return _object_text(whole_characters((yield from self._string())))
        self._give_back()
        pieces: list[str] = []
        yield from self._copy_value(pieces.append)
        text = "".join(pieces)
        return "{}" if text == "null" else text

    def _string(self, *, limit: int | None = None) -> Reading[str]:
        """Read the rest of a JSON string; its first quote is read."""
        pieces = ['"']
        character = yield from self._next()
        while character != '"':
            if character == END or (limit is not None and len(pieces) > limit):
                self._fail()
            pieces.append(character)
            if character == "\\":
                pieces.append((yield from self._next()))
            character = yield from self._next()
        try:
            text = json.loads("".join(pieces) + '"', strict=False)
        except ValueError:
            self._fail()
        assert isinstance(text, str)
        return text

    def _copy_value(self, take: Callable[[str], None]) -> Reading[None]:
        """Hand on one JSON value, blanks in front of it left out; control characters in strings are escaped."""
        character = yield from self._next_solid()
        if character not in '{["':
            yield from self._copy_word(take, character)
            return
        depth = 0
        while True:
            if character == '"':
                yield from self._copy_string(take)
            elif character == END or character not in _OUTSIDE_STRINGS:
                self._fail()
            else:
                take(character)
                depth += (character in "{[") - (character in "}]")
            if depth == 0:
                return
            character = yield from self._next()

    def _copy_string(self, take: Callable[[str], None]) -> Reading[None]:
        take('"')
        character = yield from self._next()
        while character != '"':
            if character == END:
                self._fail()
            take(character if character >= " " else json.dumps(character)[1:-1])
            if character == "\\":
                character = yield from self._next()
                take(character)
            character = yield from self._next()
        take('"')

    def _copy_word(self, take: Callable[[str], None], first: str) -> Reading[None]:
        if first == END:
            self._fail()
        self._give_back()
        word = yield from self._read_while("+-.")
        if not _WORD.fullmatch(word):
            self._fail()
        take(word)


def _object_text(text: str) -> str:
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError):
        value = None
    return (text or "{}") if isinstance(value, dict) else json.dumps(text, ensure_ascii=False)


def _ignore(_: str) -> None:
    pass

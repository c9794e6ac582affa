"""Calls written as Python: `[f(a=1), g(b="x")]`, as Llama 3.2, Llama 4 and LFM2 write them.

At the beginning of a message, after another call, or after a marker anywhere.
"""

from __future__ import annotations

from appliance.text.tool_calls.machine import Reading
from appliance.text.tool_calls.value_machine import Value, ValueCallMachine

OPENINGS = ("<|tool_call_start|>", "<|python_start|>")
CLOSINGS = ("<|tool_call_end|>", "<|python_end|>")


class PythonicParser(ValueCallMachine):
    """A list of calls with keyword arguments; each is given when it is complete."""

    def _parse(self) -> Reading[None]:
        yield from self._read_calls(self._calls, OPENINGS, CLOSINGS, may_be_bare=True)

    def _calls(self) -> Reading[None]:
        if (yield from self._next_solid()) != "[":
            self._fail()
        character = ","
        while character == ",":
            yield from self._call()
            character = yield from self._next_solid()
        if character != "]":
            self._fail()

    def _call(self) -> Reading[None]:
        yield from self._next_solid()
        self._give_back()
        name = yield from self._read_while("_.")
        if not name or name[0].isdigit() or not self._tools.allows(name):
            self._fail()
        if (yield from self._next()) != "(":
            self._fail()
        arguments: dict[str, Value] = {}
        character = yield from self._next_solid()
        while character != ")":
            self._give_back()
            key = yield from self._read_while("_")
            if not key or (yield from self._next_solid()) != "=":
                self._fail()
            arguments[key] = yield from self._value()
            character = yield from self._separator(")")
        self._finish_call(name, arguments)

    def _value(self, depth: int = 0) -> Reading[Value]:
        self._check_depth(depth)
        character = yield from self._next_solid()
        if character in ("'", '"'):
            return (yield from self._quoted(character))
        if character in ("[", "("):
            return (yield from self._list("]" if character == "[" else ")", depth))
        if character == "{":
            return (yield from self._dict(depth))
        self._give_back()
        return (yield from self._word())

    def _list(self, closing: str, depth: int) -> Reading[Value]:
        items: list[Value] = []
        character = yield from self._next_solid()
        while character != closing:
            self._give_back()
            items.append((yield from self._value(depth + 1)))
            character = yield from self._separator(closing)
        return items

    def _dict(self, depth: int) -> Reading[Value]:
        items: dict[str, Value] = {}
        character = yield from self._next_solid()
        while character != "}":
            self._give_back()
            key = yield from self._value(depth + 1)
            if not isinstance(key, str) or (yield from self._next_solid()) != ":":
                self._fail()
            items[key] = yield from self._value(depth + 1)
            character = yield from self._separator("}")
        return items

    def _separator(self, closing: str) -> Reading[str]:
        """Read past a value: the closing bracket, or the first character after a comma."""
        character = yield from self._next_solid()
        if character == ",":
            return (yield from self._next_solid())
        if character != closing:
            self._fail()
        return character

"""The families that write calls as JSON: between tags, bare, and after Mistral's marker."""

from __future__ import annotations

from appliance.text.tool_calls.json_machine import JsonCallMachine
from appliance.text.tool_calls.machine import Reading

TOOL_CALL, END_TOOL_CALL = "<tool_call>", "</tool_call>"
PYTHON_TAG = "<|python_tag|>"
MISTRAL_MARKER = "[TOOL_CALLS]"


class TaggedJsonParser(JsonCallMachine):
    """Hermes, Qwen, SmolLM: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, a list inside allowed."""

    def _parse(self) -> Reading[None]:
        yield from self._read_calls(self._calls, (TOOL_CALL,), (END_TOOL_CALL,), may_be_bare=False)

    def _calls(self) -> Reading[None]:
        yield from self._json_calls(is_bare=False)


class BareJsonParser(JsonCallMachine):
    """Llama 3 and the generic form: a message that is a call object, several, or a list of them.

    A call may also follow a call, or Llama's marker anywhere; other JSON is text.
    """

    def _parse(self) -> Reading[None]:
        yield from self._read_calls(self._next_calls, (PYTHON_TAG,), may_be_bare=True)

    def _next_calls(self) -> Reading[None]:
        character = yield from self._next_solid()
        if not (self._num_calls and character in (",", ";")):
            self._give_back()
        yield from self._json_calls(is_bare=True)


class MistralParser(JsonCallMachine):
    """`[TOOL_CALLS][{...}, ...]`, and the newer `[TOOL_CALLS]name{...}`, `[TOOL_CALLS]name[ARGS]{...}`."""

    def _parse(self) -> Reading[None]:
        yield from self._read_calls(self._calls, (MISTRAL_MARKER,), may_be_bare=False)

    def _calls(self) -> Reading[None]:
        character = yield from self._next_solid()
        self._give_back()
        if character in ("[", "{"):
            yield from self._json_calls(is_bare=False)
            return
        name = yield from self._read_while("_-.")
        character = yield from self._next_solid()
        while character == "[":
            tag = yield from self._read_while("_")
            yield from self._expect("]")
            if tag == "CALL_ID":
                yield from self._read_while("_-")
            elif tag != "ARGS":
                self._fail()
            character = yield from self._next_solid()
        if not name or character != "{":
            self._fail()
        self._give_back()
        yield from self._stream_arguments(name)

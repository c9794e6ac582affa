"""Tools whose input is text by a grammar: their marker and their rules.

A grammar of text cannot be followed inside a JSON string, where quotes and line breaks are escaped. So the input stands
as it is, behind a marker, and ends with the answer.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from appliance.server.v1.chat.wire import Function

INPUT_SCHEMA = {
    "type": "object",
    "properties": {"input": {"type": "string"}},
    "required": ["input"],
    "additionalProperties": False,
}
"""The arguments of a custom tool as the model's template is told of them."""


class GrammarTool(Function):
    """A tool whose input follows a Lark grammar; made by the server, never read from a request."""

    grammar: str


def grammar_tools(functions: Sequence[Function]) -> list[GrammarTool]:
    """Return the tools that have a grammar."""
    return [function for function in functions if isinstance(function, GrammarTool)]


def marker(name: str, *, is_generic: bool) -> str:
    """Return the text that begins a call: in the generic form, or as Hermes' templates begin one."""
    if is_generic:
        return f"<tool name={json.dumps(name)}>\n"
    return f'<tool_call>\n{{"name": {json.dumps(name)}, "arguments": {{"input": "'


def generic_rules(tools: Sequence[GrammarTool]) -> str:
    """Return the rules by which `custom` is a call in the generic form."""
    rules = [f"custom_{i}: {json.dumps(marker(tool.name, is_generic=True))} {_nested(tool)}" for i, tool in _of(tools)]
    return "\n".join([f"custom: {' | '.join(f'custom_{i}' for i, _ in _of(tools))}", *rules])


def tagged_rules(tools: Sequence[GrammarTool]) -> str:
    """Return the rules by which `custom` is text that ends with a call in Hermes' form; TAG_TEXT is the text."""
    lines = [f"custom: {' | '.join(f'custom_{i}' for i, _ in _of(tools))}"]
    for i, tool in _of(tools):
        begin = marker(tool.name, is_generic=False).removeprefix("<tool_call>")
        lines.append(f'custom_{i}_begin[lazy]: TAG_TEXT "<tool_call>"')
        lines.append(f"custom_{i}: custom_{i}_begin {json.dumps(begin)} {_nested(tool)}")
    return "\n".join(lines)


def lark_of(syntax: str, definition: str) -> str:
    """Return the Lark grammar of a definition, which may be a regular expression."""
    if syntax == "lark":
        return definition
    pattern = definition.replace("\\/", "/").replace("/", "\\/").replace("\n", "\\n")
    return f"start: /{pattern}/"


def _of(tools: Sequence[GrammarTool]) -> list[tuple[int, GrammarTool]]:
    return list(enumerate(tools))


def _nested(tool: GrammarTool) -> str:
    return f"%lark {{\n{tool.grammar}\n}}"

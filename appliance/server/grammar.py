"""Which grammar an answer has to follow: that of its response format, of a forced call, or of calls among text."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from llguidance import StructTag

from appliance.engine.constraint import JSON_OPTIONS, Constraint, GrammarCompiler
from appliance.errors import InvalidRequestError
from appliance.server.chat_wire import ChatRequest, ResponseFormat
from appliance.server.closed_schema import closed
from appliance.server.tools import ToolUse, arguments_schema

_ANY_OBJECT = {"type": "object"}


def is_held(wire: ChatRequest, tools: ToolUse | None) -> bool:
    """Whether the answer is JSON and nothing else."""
    return (tools is not None and tools.must_call) or (
        wire.response_format is not None and wire.response_format.type != "text"
    )


def constraint_for(wire: ChatRequest, tools: ToolUse | None, grammars: GrammarCompiler) -> Constraint | None:
    """A fresh constraint, or None where the model may say anything; compiles, so never on the event loop.

    Raises:
        InvalidRequestError: a schema that cannot be enforced, with the keyword.
    """
    if tools is not None and tools.must_call:
        return grammars.json_schema(tools.call_schema(), param="tools")
    if wire.response_format is not None and wire.response_format.type != "text":
        schema, param = _answer_schema(wire.response_format)
        answer = grammars.json_schema(schema, param=param)
        return answer if tools is None else _call_or_answer(wire, tools, schema, grammars) or answer
    if tools is None:
        return None
    if tools.reads_generic_form:
        grammar = f"start: call | TEXT\ncall: %json {json.dumps(tools.call_schema())}\nTEXT: /([^{{](.|\\n)*)?/"
        return grammars.lark(grammar, param="tools")
    if tools.format == "hermes" and any(f.strict for f in tools.functions):
        return grammars.lark(_tagged_calls(tools), param="tools")
    return None


def _answer_schema(wanted: ResponseFormat) -> tuple[dict[str, Any], str]:
    """The schema of the answer, and the field that it came from."""
    if wanted.type == "json_object":
        return _ANY_OBJECT, "response_format"
    if wanted.json_schema is None:
        raise InvalidRequestError(
            "Missing required parameter: 'response_format.json_schema'.",
            param="response_format.json_schema",
            code="missing_required_parameter",
        )
    schema = wanted.json_schema.schema_
    return _ANY_OBJECT if schema is None else closed(schema), "response_format.json_schema.schema"


def _call_or_answer(
    wire: ChatRequest, tools: ToolUse, schema: dict[str, Any], grammars: GrammarCompiler
) -> Constraint | None:
    """Where calls are JSON too, the model chooses between a call and the answer; None where there is no choice.

    A model that was taught no calls makes the same one for ever, so each tool is called once for a user's message.
    """
    called = _called_since_user(wire)
    rest = dataclasses.replace(tools, functions=tuple(f for f in tools.functions if f.name not in called))
    if not rest.functions or not tools.reads_generic_form:
        return None
    call, answer = (json.dumps({"x-guidance": JSON_OPTIONS, **s}) for s in (rest.call_schema(), schema))
    return grammars.lark(f"start: call | answer\ncall: %json {call}\nanswer: %json {answer}", param="tools")


def _called_since_user(wire: ChatRequest) -> set[str]:
    called: set[str] = set()
    for message in wire.messages:
        called = set() if message.role == "user" else called | {c.function.name for c in message.tool_calls or ()}
    return called


def _tagged_calls(tools: ToolUse) -> str:
    """Free text until a call begins; then the arguments follow their schema."""
    tags = [
        StructTag(
            trigger="<tool_call>",
            begin=f'<tool_call>\n{{"name": {json.dumps(f.name)}, "arguments": ',
            grammar={**(f.parameters or {}), **arguments_schema(f)},
            end="}\n</tool_call>",
        )
        for f in tools.functions
    ]
    return str(StructTag.to_grammar(tags, assume_special=False))

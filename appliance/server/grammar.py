"""Which grammar an answer has to follow: that of its response format, of a forced call, or of calls among text."""

from __future__ import annotations

import json

from llguidance import StructTag

from appliance.engine.constraint import Constraint, GrammarCompiler
from appliance.errors import InvalidRequestError
from appliance.server.chat_wire import ChatRequest
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
        return _response_format(wire, grammars)
    if tools is None:
        return None
    if tools.reads_generic_form:
        grammar = f"start: call | TEXT\ncall: %json {json.dumps(tools.call_schema())}\nTEXT: /([^{{](.|\\n)*)?/"
        return grammars.lark(grammar, param="tools")
    if tools.format == "hermes" and any(f.strict for f in tools.functions):
        return grammars.lark(_tagged_calls(tools), param="tools")
    return None


def _response_format(wire: ChatRequest, grammars: GrammarCompiler) -> Constraint:
    wanted = wire.response_format
    assert wanted is not None
    if wanted.type == "json_object":
        return grammars.json_schema(_ANY_OBJECT, param="response_format")
    if wanted.json_schema is None:
        raise InvalidRequestError(
            "Missing required parameter: 'response_format.json_schema'.",
            param="response_format.json_schema",
            code="missing_required_parameter",
        )
    schema = wanted.json_schema.schema_
    schema = _ANY_OBJECT if schema is None else closed(schema)
    return grammars.json_schema(schema, param="response_format.json_schema.schema")


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

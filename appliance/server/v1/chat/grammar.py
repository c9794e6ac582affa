"""The grammar of an answer: that of its response format, of a forced call, or of calls among text."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from llguidance import StructTag

from appliance.engine.runtime.grammar import JSON_OPTIONS, GrammarCompiler
from appliance.engine.types import Constraint
from appliance.server.http.wire import missing_parameter
from appliance.server.v1.chat.calls import CallForm, call_forms, rules
from appliance.server.v1.chat.closed_schema import closed
from appliance.server.v1.chat.custom import GrammarTool, generic_rules, grammar_tools, tagged_rules
from appliance.server.v1.chat.tools import ToolUse
from appliance.server.v1.chat.wire import ChatRequest, Function, ResponseFormat
from appliance.server.v1.turn import Turn
from appliance.server.v1.turns import called_since_user

_ANY_OBJECT = {"type": "object"}
_TAG_END = "tag_end: TAG_TEXT"  # llguidance's rule of the text after the last call


@dataclass(frozen=True, slots=True)
class AnswerSchema:
    """The JSON Schema that an answer is held to, and the field of the request that has it."""

    schema: dict[str, Any]
    param: str


def is_constrained(wire: ChatRequest, tools: ToolUse | None) -> bool:
    """Return True if the answer is JSON and nothing else."""
    return (tools is not None and tools.must_call) or (
        wire.response_format is not None and wire.response_format.type != "text"
    )


def constraints_for(
    wire: ChatRequest, turns: Sequence[Turn], tools: ToolUse | None, grammars: GrammarCompiler
) -> tuple[Constraint | None, ...]:
    """Return a fresh constraint for each choice, None for a free answer; compiles, so never on the event loop.

    Raises:
        InvalidRequestError: a schema cannot be enforced; the message names the keyword.
    """
    answer: AnswerSchema | None = None
    if wire.response_format is not None and wire.response_format.type != "text":
        answer = AnswerSchema(*_answer_schema(wire.response_format))
    return constraints(tools, answer, called_since_user(turns), grammars, num_choices=wire.n)


def constraints(
    tools: ToolUse | None,
    answer: AnswerSchema | None,
    called: Collection[str],
    grammars: GrammarCompiler,
    *,
    num_choices: int = 1,
) -> tuple[Constraint | None, ...]:
    """Return a fresh constraint for each choice, for any route.

    `called`: the tools that were called since the last message of a user.
    """
    grammar = _tool_grammar(tools, answer, called, grammars) if tools is not None else None
    if grammar is not None:
        return tuple(grammars.lark(grammar, param="tools") for _ in range(num_choices))
    if answer is not None:
        return tuple(grammars.json_schema(answer.schema, param=answer.param) for _ in range(num_choices))
    return (None,) * num_choices


def _tool_grammar(
    tools: ToolUse, answer: AnswerSchema | None, called: Collection[str], grammars: GrammarCompiler
) -> str | None:
    """Return the grammar in which calls take part; None if the answer is free of them, or is no call."""
    if tools.must_call:
        return "\n".join(_generic_calls(tools.functions, grammars, **JSON_OPTIONS))
    if answer is not None:
        return _call_or_answer(tools, answer, called, grammars)
    if tools.reads_generic_form:
        start, *calls = _generic_calls(tools.functions, grammars)
        other = "{<" if grammar_tools(tools.functions) else "{"
        return "\n".join([f"{start} | TEXT", *calls, f"TEXT: /([^{other}](.|\\n)*)?/"])
    if tools.format == "hermes" and any(f.strict for f in tools.functions):
        return _tagged_calls(tools.functions, grammars)
    return None


def _generic_calls(functions: Sequence[Function], grammars: GrammarCompiler, **options: object) -> list[str]:
    """Return the start rule, by which the answer is a call, and the rules of the calls."""
    custom = grammar_tools(functions)
    plain = [function for function in functions if not isinstance(function, GrammarTool)]
    calls = [rules(call_forms(plain, grammars), "call", **options)] if plain else []
    calls += [generic_rules(custom)] if custom else []
    names = [name for name, there in (("call", plain), ("custom", custom)) if there]
    return [f"start: {' | '.join(names)}", *calls]


def _answer_schema(wanted: ResponseFormat) -> tuple[dict[str, Any], str]:
    """Return the schema of the answer, and the field of the request that has it."""
    if wanted.type == "json_object":
        return _ANY_OBJECT, "response_format"
    if wanted.json_schema is None:
        raise missing_parameter("response_format.json_schema")
    schema = wanted.json_schema.schema_
    return _ANY_OBJECT if schema is None else closed(schema), "response_format.json_schema.schema"


def _call_or_answer(
    tools: ToolUse, answer: AnswerSchema, called: Collection[str], grammars: GrammarCompiler
) -> str | None:
    """Let the model choose between a call and the answer if calls are JSON too; None if it has no choice.

    A model without training on calls repeats the same one for ever, so each tool is called once for a user's message.
    """
    rest = [function for function in tools.functions if function.name not in called]
    if not rest or not tools.reads_generic_form:
        return None
    grammars.json_schema(answer.schema, param=answer.param)  # refused as the answer's, not as the tools'
    schema = json.dumps({"x-guidance": JSON_OPTIONS, **answer.schema})
    start, *calls = _generic_calls(rest, grammars, **JSON_OPTIONS)
    return "\n".join([f"{start} | answer", *calls, f"answer: %json {schema}"])


def _tagged_calls(functions: Sequence[Function], grammars: GrammarCompiler) -> str:
    """Return a grammar of free text until a call begins; then the arguments follow their schema, or the tool's grammar.

    A call that follows a grammar of its own is the last one, since nothing but the answer's end can end its text.
    """
    custom = grammar_tools(functions)
    forms = call_forms([f for f in functions if not isinstance(f, GrammarTool)], grammars)
    if not forms:
        return f"start: TAG_TEXT | custom\nTAG_TEXT: /(.|\\n)*/\n{tagged_rules(custom)}"
    grammar = _tagged_forms(forms)
    if not custom:
        return grammar
    assert _TAG_END in grammar
    return f"{grammar.replace(_TAG_END, f'{_TAG_END} | custom')}\n{tagged_rules(custom)}"


def _tagged_forms(forms: Sequence[CallForm]) -> str:
    tags = [
        StructTag(
            trigger="<tool_call>",
            begin=f'<tool_call>\n{{"name": {json.dumps(form.name)}, "arguments": ',
            grammar=form.tagged,
            end="}\n</tool_call>",
        )
        for form in forms
    ]
    return str(StructTag.to_grammar(tags, assume_special=False))

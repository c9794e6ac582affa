"""Schemas of tools as pydantic and zod write them: a loose tool is never refused, a strict one is honoured or named."""

from __future__ import annotations

import datetime
import decimal
import enum
import json
import logging
import random
import types
import uuid
from typing import Any, Literal

import numpy as np
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.engine.runtime.grammar import JSON_OPTIONS, GrammarCompiler, GrammarConstraint, Vocabulary
from appliance.errors import InvalidRequestError
from appliance.server.v1.chat.calls import CallForm, call_forms, rules
from appliance.server.v1.chat.grammar import AnswerSchema, constraints
from appliance.server.v1.chat.tools import GENERIC, ToolUse
from appliance.server.v1.chat.wire import Function
from appliance.server.v1.schema import at, moved
from tests.conftest import RunningServer
from tests.server.wire import chat

END = 256
STRING = {"type": "string"}
ITEM: dict[str, Any] = {"type": "object", "properties": {"n": STRING}, "required": ["n"]}
REQUIRED: list[dict[str, Any]] = [{"required": ["p"]}, {"required": ["q"]}]


def _bytes_compiler() -> GrammarCompiler:
    vocabulary = Vocabulary(
        token_bytes=[*(bytes([i]) for i in range(256)), b"<end>"],
        special_token_ids=[END],
        eos_token_ids=(END,),
        encode=lambda text: list(text.encode()),
    )
    return GrammarCompiler(vocabulary, vocab_size=END + 1)


COMPILER = _bytes_compiler()


def properties(a: object, **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"a": a}, **more}


def function(parameters: Any, *, name: str = "f", strict: bool = False) -> Function:
    return Function(name=name, parameters=parameters, strict=strict)


def forced(*forms: CallForm) -> GrammarConstraint:
    return COMPILER.lark(f"start: call\n{rules(forms, 'call', **JSON_OPTIONS)}", param="tools")


def takes(constraint: GrammarConstraint, call: dict[str, Any]) -> bool:
    """Return True if the grammar allows the whole text of a call."""
    for byte in json.dumps(call, ensure_ascii=False).encode():
        logits = np.zeros(END + 1, np.float32)
        constraint.apply(logits)
        if logits[byte] != 0:
            return False
        constraint.accept(byte)
    logits = np.zeros(END + 1, np.float32)
    constraint.apply(logits)
    return bool(logits[END] == 0)


LOOSE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a Decimal's pattern": (properties({"type": "string", "pattern": "^(?!x).*$"}), {"a": "1.5"}),
    "a set": (properties({"type": "array", "items": STRING, "uniqueItems": True}), {"a": ["x"]}),
    "a required property that is not listed": ({**properties(STRING), "required": ["a", "b"]}, {"a": "x", "b": 1}),
    "oneOf": ({"type": "object", "properties": {"p": STRING, "q": STRING}, "oneOf": REQUIRED}, {"p": "x"}),
    "not": (properties({"not": STRING}), {"a": 1}),
    "if": (properties({"if": STRING, "then": {"minLength": 1}}), {"a": "x"}),
    "dependentRequired": (properties(STRING, dependentRequired={"a": ["b"]}), {"a": "x"}),
    "a reference to a neighbour": (
        {"type": "object", "properties": {"a": STRING, "b": {"$ref": "#/properties/a"}}, "required": ["a", "b"]},
        {"a": "x", "b": "y"},
    ),
    "a tree": (properties(STRING, properties={"a": {"type": "array", "items": {"$ref": "#"}}}), {"a": [{"a": []}]}),
    "a reference to nothing": (properties({"$ref": "#/$defs/Nothing"}), {"a": 1}),
    "a reference elsewhere": (properties({"$ref": "http://127.0.0.1:9/x.json"}), {"a": 1}),
    "an unknown type": (properties({"type": "strin"}), {"a": 1}),
    "no object at all": ({"type": "array", "items": STRING}, {"a": 1}),
    "an object or null": ({**properties(STRING), "type": ["object", "null"]}, {"a": "x"}),
    "properties that are a list": ({"type": "object", "properties": [1]}, {"a": 1}),
    "impossible numbers": (properties({"type": "integer", "minimum": 5, "maximum": 3}, required=["a"]), {"a": 4}),
    "an unknown format": (properties({"type": "string", "format": "phone"}), {"a": "x"}),
    "an anchor": (properties({"$ref": "#item"}, **{"$defs": {"I": {"$anchor": "item", **ITEM}}}), {"a": {"n": "x"}}),
    "an identity": (
        properties({"$ref": "https://e.com/a#/$defs/I"}, **{"$id": "https://e.com/a", "$defs": {"I": ITEM}}),
        {"a": {"n": "x"}},
    ),
    "a property named $ref": ({"type": "object", "properties": {"$ref": STRING}}, {"$ref": "#/x"}),
    "constants that look like references": (properties({"enum": [{"$ref": "#/x"}]}), {"a": {"$ref": "#/x"}}),
}


@pytest.mark.parametrize("name", LOOSE)
def test_a_loose_tool_is_taken_whatever_its_schema_says(name: str) -> None:
    schema, arguments = LOOSE[name]
    good = function({**properties(STRING), "required": ["a"]}, name="good")
    forms = call_forms([function(schema), good], COMPILER)
    assert takes(forced(*forms), {"name": "f", "arguments": arguments})
    assert takes(forced(*forms), {"name": "good", "arguments": {"a": "x"}})
    assert not takes(forced(*forms), {"name": "good", "arguments": {"a": 1}})


@pytest.mark.parametrize("name", ["not", "a set", "a Decimal's pattern", "if", "oneOf"])
@pytest.mark.parametrize("choice", ["auto", "required"])
def test_a_server_takes_loose_tools_and_says_which_are_not_held_to_their_schema(
    server: RunningServer, caplog: pytest.LogCaptureFixture, name: str, choice: str
) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": LOOSE[name][0]}}
    with caplog.at_level(logging.INFO, "appliance.server.v1.chat.calls"):
        response = chat(server, tools=[tool], tool_choice=choice, max_tokens=2)
    assert response.status_code == 200, response.text
    assert "the calls of tool 'f'" in caplog.text


def test_keywords_that_can_be_followed_still_are() -> None:
    schema = properties({"type": "array", "items": {"type": "integer"}, "uniqueItems": True}, required=["a"])
    forms = call_forms([function(schema)], COMPILER)
    assert not takes(forced(*forms), {"name": "f", "arguments": {"a": ["x"]}})
    assert not takes(forced(*forms), {"name": "f", "arguments": {}})


def test_definitions_of_one_name_are_each_tools_own() -> None:
    def with_item(kind: str) -> dict[str, Any]:
        return properties({"$ref": "#/$defs/Item"}, required=["a"], **{"$defs": {"Item": {"type": kind}}})

    tools = [function(with_item("string"), name="f"), function(with_item("integer"), name="g", strict=True)]
    forms = call_forms(tools, COMPILER)
    assert takes(forced(*forms), {"name": "f", "arguments": {"a": "x"}})
    assert takes(forced(*forms), {"name": "g", "arguments": {"a": 1}})
    assert not takes(forced(*forms), {"name": "g", "arguments": {"a": "x"}})


@pytest.mark.parametrize(
    ("schema", "path", "said"),
    [
        (properties({"type": "string", "pattern": "^(?!x).*$"}), "#/properties/a", "^(?!x).*$"),
        (properties({"type": "array", "uniqueItems": True}), "#/properties/a", "uniqueItems"),
        (properties({"anyOf": [STRING, {"not": STRING}]}), "#/properties/a/anyOf/1", "not"),
        (properties({"$ref": "#/$defs/I"}, **{"$defs": {"I": {"not": STRING}}}), "#/$defs/I", "not"),
        (properties(STRING, required=["a", "b"], additionalProperties=False), "#", "'b'"),
        (properties({"$ref": "#/$defs/Nothing"}), "#/properties/a", "Nothing"),
        ({"type": "array"}, "#/type", "object"),
    ],
)
def test_a_strict_schema_that_cannot_be_enforced_is_refused_by_tool_and_path(
    schema: dict[str, Any], path: str, said: str
) -> None:
    tools = [function(properties(STRING), name="good", strict=True), function(schema, name="bad", strict=True)]
    with pytest.raises(InvalidRequestError) as caught:
        call_forms(tools, COMPILER)
    assert caught.value.param == "tools[1].function.parameters"
    assert "'bad'" in str(caught.value)
    assert f"'{path}'" in str(caught.value)
    assert said in str(caught.value)


def test_the_largest_loose_schemas_give_way_where_all_are_too_large() -> None:
    large = properties({"enum": [f"item {i}" for i in range(6000)]}, required=["a"])
    small = properties(STRING, required=["a"])
    tools = [function(large, name="a"), function(large, name="b"), function(small, name="c")]
    forms = call_forms(tools, COMPILER)
    assert [form.arguments.get("required") for form in forms].count(["a"]) == 2
    assert not takes(forced(forms[2]), {"name": "c", "arguments": {}})
    with pytest.raises(InvalidRequestError, match="strict tools"):
        call_forms([function(large, name=name, strict=True) for name in "ab"], COMPILER)


def test_a_tagged_call_of_a_strict_tool_has_its_references() -> None:
    schema = properties({"$ref": "#/$defs/I"}, required=["a"], **{"$defs": {"I": ITEM}})
    tools = ToolUse(
        functions=(function(schema, strict=True), function(LOOSE["not"][0], name="g")),
        must_call=False,
        parallel=True,
        is_legacy=False,
        format="hermes",
        template_knows_tools=True,
    )
    (constraint,) = constraints(tools, None, (), COMPILER)
    assert constraint is not None


def test_an_answers_schema_is_refused_as_the_answers() -> None:
    tools = ToolUse((function(properties(STRING)),), False, True, False, GENERIC, False)
    with pytest.raises(InvalidRequestError) as caught:
        constraints(tools, AnswerSchema({"not": STRING}, "text.format.schema"), (), COMPILER)
    assert caught.value.param == "text.format.schema"


def test_a_moved_schema_refers_to_what_it_referred_to() -> None:
    schema = {"properties": {"a/b": STRING, "c": {"$ref": "#/properties/a~1b"}}, "items": {"$ref": "#"}}
    inner = moved(schema, "#/$defs/x")
    assert inner["items"] == {"$ref": "#/$defs/x"}
    whole = {"$defs": {"x": inner}}
    assert at(inner["properties"]["c"]["$ref"].removeprefix("#"), whole) == STRING


class Colour(enum.Enum):
    RED = "red"
    GREEN = "green"


class Inner(pydantic.BaseModel):
    name: str
    colour: Colour | None = None


class Tree(pydantic.BaseModel):
    value: int
    children: list[Tree] = []


_TYPES = st.sampled_from(
    [int, str, bool, type(None), Inner, Tree, Colour, Literal["a", "b"], dict[str, int], uuid.UUID]
)
_HARD_TYPES = st.sampled_from([decimal.Decimal, set[str], frozenset[int], datetime.timedelta, bytes, tuple[int, str]])
_FIELDS = st.recursive(
    _TYPES,
    lambda inner: (
        st.builds(lambda kind: types.GenericAlias(list, (kind,)), inner) | st.builds(lambda a, b: a | b, _TYPES, inner)
    ),
    max_leaves=3,
)


def models(fields: st.SearchStrategy[Any]) -> st.SearchStrategy[type[pydantic.BaseModel]]:
    extra = st.sampled_from(["ignore", "forbid", "allow"])
    names = st.sampled_from(["a", "b", "some name", "$ref", "properties"])
    described = st.dictionaries(names, st.tuples(fields, st.booleans()), min_size=1, max_size=4)

    def made(members: dict[str, tuple[Any, bool]], mode: Any) -> type[pydantic.BaseModel]:
        definitions: dict[str, Any] = {
            f"field_{i}": (kind, pydantic.Field(alias=name))
            if required
            else (kind | None, pydantic.Field(None, alias=name))
            for i, (name, (kind, required)) in enumerate(members.items())
        }
        return pydantic.create_model("Arguments", __config__=pydantic.ConfigDict(extra=mode), **definitions)

    return st.builds(made, described, extra)


def written(constraint: GrammarConstraint, chance: random.Random) -> str | None:
    """Return a text that the grammar allows, chosen by chance; None if it has not ended after some bytes."""
    text = bytearray()
    for _ in range(600):
        logits = np.zeros(END + 1, np.float32)
        constraint.apply(logits)
        allowed = [int(i) for i in np.flatnonzero(logits == 0)]
        if END in allowed:
            return text.decode()
        closing = [byte for byte in allowed if byte in b'"}],:']
        plain = [byte for byte in allowed if byte in b"abcdef0123-"]
        byte = chance.choice((closing if chance.random() < 0.5 else plain) or closing or allowed)
        text.append(byte)
        constraint.accept(byte)
    return None


@settings(max_examples=120, deadline=None)
@given(model=models(_FIELDS), seed=st.integers(0, 1 << 32))
def test_a_call_in_the_form_of_a_pydantic_model_is_one(model: type[pydantic.BaseModel], seed: int) -> None:
    forms = call_forms([function(model.model_json_schema(), strict=True)], COMPILER)
    text = written(forced(*forms), random.Random(seed))
    if text is not None:
        model.model_validate(json.loads(text)["arguments"])


@settings(max_examples=60, deadline=None)
@given(model=models(_FIELDS | _HARD_TYPES), strict=st.booleans())
def test_every_pydantic_model_is_taken_or_refused_by_name(model: type[pydantic.BaseModel], strict: bool) -> None:
    tools = [function(model.model_json_schema(), strict=strict), function(ITEM, name="g")]
    try:
        forced(*call_forms(tools, COMPILER))
    except InvalidRequestError as err:
        assert strict
        assert "'f'" in str(err)  # noqa: PT017


_SCALARS: list[dict[str, Any]] = [
    STRING,
    {},
    {"not": {}},
    {"type": "integer", "minimum": -9007199254740991, "maximum": 9007199254740991},
    {"type": "number", "exclusiveMinimum": 0},
    {"type": "string", "format": "email", "pattern": "^(?!\\.)(?!.*\\.\\.)[A-Za-z0-9_+-]+@x$"},
    {"type": "string", "enum": ["a", "b"], "default": "a"},
    {"const": 1},
    {"$ref": "#/properties/a"},
    {"$ref": "#/$defs/__schema0"},
    {"$ref": "#"},
    {"type": ["string", "null"]},
]
_ZOD = st.recursive(
    st.sampled_from(_SCALARS),
    lambda inner: (
        st.builds(lambda items: {"type": "array", "items": items}, inner)
        | st.builds(
            lambda items: {"type": "array", "prefixItems": items, "minItems": len(items)}, st.lists(inner, max_size=2)
        )
        | st.builds(lambda values: {"type": "object", "propertyNames": STRING, "additionalProperties": values}, inner)
        | st.builds(lambda kinds: {"anyOf": kinds}, st.lists(inner, min_size=1, max_size=3))
        | st.builds(lambda kinds: {"oneOf": kinds}, st.lists(inner, min_size=1, max_size=3))
        | st.builds(lambda kinds: {"allOf": kinds}, st.lists(inner, min_size=1, max_size=2))
        | st.builds(
            lambda a, b: {
                "type": "object",
                "properties": {"a": a, "b": b},
                "required": ["a"],
                "additionalProperties": False,
            },
            inner,
            inner,
        )
    ),
    max_leaves=5,
)


@settings(max_examples=150, deadline=None)
@given(
    a=_ZOD, b=_ZOD, shared=_ZOD, required=st.lists(st.sampled_from(["a", "b", "c"]), unique=True), strict=st.booleans()
)
def test_every_zod_schema_is_taken_or_refused_by_name(
    a: Any, b: Any, shared: Any, required: list[str], strict: bool
) -> None:
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {"a": a, "b": b},
        "required": required,
        "$defs": {"__schema0": shared},
    }
    try:
        forced(*call_forms([function(schema, strict=strict), function(schema, name="g")], COMPILER))
    except InvalidRequestError as err:
        assert strict
        assert "'f'" in str(err)  # noqa: PT017

"""A request for a response becomes a chat request, and that a prompt; chat's refusals get this API's names."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from appliance.errors import InvalidRequestError
from appliance.models import ChatModel
from appliance.server.state.sealing import Sealer
from appliance.server.v1.chat.prompt import ChatPlan, plan_chat
from appliance.server.v1.chat.wire import ChatRequest, JsonSchema, ResponseFormat
from appliance.server.v1.responses.conversation import conversation
from appliance.server.v1.responses.item_answers import Item
from appliance.server.v1.responses.response import Transformation
from appliance.server.v1.responses.tools import Offer, offer
from appliance.server.v1.responses.truncation import fitting
from appliance.server.v1.responses.wire import PromptFields, ResponseRequest, TextFormat
from appliance.server.v1.sampling import StreamOptions
from appliance.text.tool_calls import format_for_template

_SAME = (
    *("model", "stream", "temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "seed"),
    *("repetition_penalty", "stop", "logit_bias", "user", "ignore_eos", "top_logprobs", "parallel_tool_calls"),
    "thinking_token_budget",
)
_NAMES = (
    (re.compile(r"messages[^' ]*"), "input"),
    (re.compile(r"response_format(\.json_schema)?"), "text.format"),
    (re.compile(r"tool_choice\.(function|allowed_tools)"), "tool_choice"),
)
_QUOTED = re.compile(r"'[a-z_]+[^' ]*'")


@dataclass(frozen=True, slots=True)
class ResponsePlan:
    """A request ready for the engine: the chat request it became, its plan, and what was left out.

    `items` are the request's own ones as JSON, ready to be stored. `num_left_out`: messages, by `truncation`.
    """

    chat: ChatRequest
    plan: ChatPlan
    offer: Offer
    items: tuple[bytes, ...]
    item_ids: tuple[str, ...]
    removed: list[Transformation]
    num_left_out: int


def plan_response(
    model: ChatModel, wire: PromptFields, earlier: Sequence[bytes], given: Sequence[Item | bytes], sealer: Sealer
) -> ResponsePlan:
    """Read the chain and the items, render, encode and compile; takes milliseconds, so never on the event loop.

    Args:
        model: the model that answers.
        wire: the request.
        earlier: the items of the chain, as JSON.
        given: the request's own items; stored ones as JSON.
        sealer: opens sealed reasoning.

    Raises:
        ContextLengthError: the prompt leaves no room for an answer.
        InvalidRequestError: an item, a tool or a schema is not valid.
    """
    chain: list[Item] = json.loads(b"[" + b",".join(earlier) + b"]")
    items: list[Item] = [json.loads(item) if isinstance(item, bytes) else item for item in given]
    said = conversation(wire.instructions, [*chain, *items], sealer)
    source = model.template.source if model.template is not None else ""
    included = wire.include or () if isinstance(wire, ResponseRequest) else ()
    offered = offer(wire, included, model.grammars, call_format=format_for_template(source))
    chat = _chat_request(wire, offered).model_copy(update={"messages": said.messages})
    with _own_names():
        if wire.truncation == "auto":
            chat, plan = fitting(model, chat)
        else:
            plan = plan_chat(model, chat)
    own = tuple(item if isinstance(item, bytes) else to_json(item) for item in given)
    num_left_out = len(said.messages) - len(chat.messages)
    return ResponsePlan(chat, plan, offered, own, tuple(item["id"] for item in items), said.removed, num_left_out)


def to_json(value: object) -> bytes:
    """Return a value as it is stored."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _chat_request(wire: PromptFields, offered: Offer) -> ChatRequest:
    """Return the request without messages; nothing is parsed, since chat's limits of names and counts do not apply."""
    effort = wire.reasoning.effort if wire.reasoning is not None else None
    fields = {name: getattr(wire, name) for name in _SAME if getattr(wire, name, None) is not None}
    wants_logprobs = isinstance(wire, ResponseRequest) and (
        bool(wire.top_logprobs) or wire.includes("message.output_text.logprobs")
    )
    return ChatRequest.model_construct(
        **fields,
        messages=[],
        stream_options=StreamOptions() if getattr(wire, "stream_options", None) is not None else None,
        logprobs=wants_logprobs,
        max_completion_tokens=wire.max_output_tokens if isinstance(wire, ResponseRequest) else None,
        response_format=_response_format(wire.text.format if wire.text is not None else None),
        tools=offered.tools or None,
        tool_choice=offered.choice,
        reasoning_effort=effort,
        chat_template_kwargs=wire.chat_template_kwargs,
    )


def _response_format(asked: TextFormat | None) -> ResponseFormat | None:
    if asked is None or asked.type != "json_schema":
        return None if asked is None else ResponseFormat(type=asked.type)
    if asked.name is None or asked.schema_ is None:
        param = f"text.format.{'name' if asked.name is None else 'schema'}"
        raise InvalidRequestError(
            f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter"
        )
    schema = JsonSchema.model_construct(name=asked.name, schema_=asked.schema_, strict=bool(asked.strict))
    return ResponseFormat(type="json_schema", json_schema=schema)


@contextlib.contextmanager
def _own_names() -> Iterator[None]:
    """Let chat's refusals name the fields of this API."""
    try:
        yield
    except InvalidRequestError as err:
        message = _QUOTED.sub(lambda match: own_name(match.group()), err.message)
        raise type(err)(message, param=err.param and own_name(err.param), code=err.code) from err


def own_name(param: str) -> str:
    """Return the name of a field of chat in this API."""
    for pattern, name in _NAMES:
        param = pattern.sub(name, param)
    return param

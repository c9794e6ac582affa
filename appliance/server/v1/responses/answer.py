"""The response object: what it says from its beginning on, and each of its states."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from appliance.engine.types import SamplingParams
from appliance.errors import InvalidRequestError, LanternError, OverloadedError
from appliance.server.v1.generation import Generation
from appliance.server.v1.responses.item_answers import OutputItem
from appliance.server.v1.responses.items import new_id
from appliance.server.v1.responses.plan import ResponsePlan, own_name
from appliance.server.v1.responses.response import Response, ResponseUsage, Status, TextEcho
from appliance.server.v1.responses.wire import ResponseRequest, TextOptions


@dataclass(frozen=True, slots=True)
class Answer:
    """One response while it is made; the base holds the fields that do not change."""

    base: Response

    @property
    def id(self) -> str:
        """Return the id of the response."""
        return self.base["id"]

    def begun(self, status: Status = "in_progress", output: Sequence[OutputItem] = ()) -> Response:
        """Return the response before its end."""
        return {**self.base, "status": status, "output": list(output)}

    def ended(self, status: Status, output: Sequence[OutputItem], usage: ResponseUsage, *, is_stored: bool) -> Response:
        """Return the response with its whole output: completed, incomplete or cancelled."""
        response: Response = {
            **self.base,
            "status": status,
            "output": list(output),
            "usage": usage,
            "store": is_stored,
        }
        if status == "completed":
            response["completed_at"] = int(time.time())
        elif status == "incomplete":
            response["incomplete_details"] = {"reason": "max_output_tokens"}
        return response

    def failed(self, err: LanternError, output: Sequence[OutputItem]) -> Response:
        """Return the response that could not be ended, with the items that were; only background ones are stored."""
        is_invalid = isinstance(err, InvalidRequestError)
        is_busy = isinstance(err, OverloadedError)
        return {
            **self.base,
            "status": "failed",
            "output": list(output),
            "store": self.base["background"],
            "error": {
                "code": "invalid_prompt" if is_invalid else "rate_limit_exceeded" if is_busy else "server_error",
                "message": err.message,
                "type": err.type,
                "param": err.param and own_name(err.param),
            },
        }


def begin_answer(wire: ResponseRequest, planned: ResponsePlan, params: SamplingParams, *, stores: bool) -> Answer:
    """Return the answer of a request, in progress; `stores`: it will be stored unless it becomes too large."""
    reasoning = wire.reasoning
    base: Response = {
        "id": new_id("resp"),
        "object": "response",
        "created_at": int(time.time()),
        "completed_at": None,
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "instructions": wire.instructions,
        "max_output_tokens": wire.max_output_tokens,
        "max_tool_calls": wire.max_tool_calls,
        "model": wire.model,
        "output": [],
        "parallel_tool_calls": wire.parallel_tool_calls,
        "previous_response_id": wire.previous_response_id,
        "reasoning": {
            "effort": reasoning.effort if reasoning is not None else None,
            "summary": (reasoning.summary or reasoning.generate_summary) if reasoning is not None else None,
        },
        "background": bool(wire.background),
        "store": stores,
        "temperature": params.temperature,
        "top_p": params.top_p,
        "presence_penalty": params.presence_penalty,
        "frequency_penalty": params.frequency_penalty,
        "top_logprobs": wire.top_logprobs or 0,
        "text": _text_echo(wire.text),
        "tools": planned.offer.echo,
        "tool_choice": planned.offer.choice_echo,
        "truncation": wire.truncation,
        "metadata": wire.metadata or {},
        "service_tier": "default",
        "prompt_cache_key": wire.prompt_cache_key,
        "safety_identifier": wire.safety_identifier,
        "usage": None,
    }
    if wire.user is not None:
        base["user"] = wire.user
    if wire.conversation is not None:
        base["conversation"] = {"id": wire.conversation_id}
    if planned.removed:
        base["input_transformations"] = planned.removed
    if planned.num_left_out:
        base["messages_left_out"] = planned.num_left_out
    return Answer(base)


def usage_of(generation: Generation, num_reasoning_tokens: int) -> ResponseUsage:
    """Count the tokens of a generation that is over."""
    num_input, num_output = generation.num_prompt_tokens, generation.num_completion_tokens
    return {
        "input_tokens": num_input,
        "input_tokens_details": {"cached_tokens": generation.num_cached_tokens, "cache_write_tokens": 0},
        "output_tokens": num_output,
        "output_tokens_details": {"reasoning_tokens": num_reasoning_tokens},
        "total_tokens": num_input + num_output,
    }


def _text_echo(asked: TextOptions | None) -> TextEcho:
    form = asked.format if asked is not None else None
    echo: TextEcho = {"format": {"type": form.type if form is not None else "text"}}
    if form is not None and form.type == "json_schema" and form.name is not None and form.schema_ is not None:
        echo["format"] = {
            "type": "json_schema",
            "name": form.name,
            "schema": form.schema_,
            "strict": bool(form.strict),
        }
        if form.description is not None:
            echo["format"]["description"] = form.description
    if asked is not None and asked.verbosity is not None:
        echo["verbosity"] = asked.verbosity
    return echo

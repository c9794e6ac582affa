"""The beginning of a response: what it continues, its plan, its place in the queue; the same wherever it is made."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from functools import partial

from appliance.errors import InvalidRequestError
from appliance.models import ChatModel
from appliance.server.context import ServerContext
from appliance.server.v1.chat.grammar import is_constrained
from appliance.server.v1.generation import Origin, Prompt, generate
from appliance.server.v1.responses.answer import begin_answer
from appliance.server.v1.responses.items import find_items, read_input
from appliance.server.v1.responses.kept import find_conversation
from appliance.server.v1.responses.plan import ResponsePlan, plan_response
from appliance.server.v1.responses.run import Run
from appliance.server.v1.responses.wire import PromptFields, ResponseRequest
from appliance.server.v1.sampling import sampling_params

IGNORED_TOOLS = "x-lantern-ignored-tools"
_NOT_IN_HEADERS = re.compile(r"[^A-Za-z0-9_.-]")


@dataclass(frozen=True, slots=True)
class Started:
    """A response that is queued, and the headers of its answer."""

    run: Run
    headers: Mapping[str, str]


@contextlib.asynccontextmanager
async def started(context: ServerContext, origin: Origin, wire: ResponseRequest) -> AsyncIterator[Started]:
    """Queue a response; leaving the block cancels what still runs.

    Raises:
        LanternError: a refusal, which comes before the first byte of an answer.
    """
    async with context.pool.chat(wire.model) as model:
        planned = await plan(context, origin.key_id, model, wire)
        chat, chat_plan = planned.chat, planned.plan
        num_logprobs = (chat.top_logprobs or 0) if chat.logprobs else None
        is_json = is_constrained(chat, chat_plan.tools)
        max_tokens = chat.max_completion_tokens
        params = sampling_params(
            chat, model, len(chat_plan.prompt), max_tokens, num_logprobs, num_choices=1, is_constrained=is_json
        )
        prompt = Prompt(chat_plan.prompt, params, chat_plan.constraints, borders=chat_plan.borders)
        answer = begin_answer(wire, planned, params[0], stores=wire.store and context.responses.is_on)
        tells = wire.return_progress and (wire.stream or wire.background)
        asked = generate(origin, model, [prompt], stops=chat.stops, visible=chat_plan.visible, tells_progress=tells)
        async with asked as generation:
            run = Run(context, origin.key_id, wire, model, planned, answer, generation)
            yield Started(run, _headers(planned))


async def plan(context: ServerContext, key_id: str, model: ChatModel, wire: PromptFields) -> ResponsePlan:
    """Collect what the request continues, and plan it off the event loop."""
    if wire.input is None and wire.previous_response_id is None and wire.conversation is None:
        raise InvalidRequestError(
            "Missing required parameter: 'input'.", param="input", code="missing_required_parameter"
        )
    earlier = _earlier(context, key_id, wire)
    given = find_items(read_input(wire.input), partial(context.responses.item, key_id))
    loop = asyncio.get_running_loop()
    arguments = (model, wire, earlier, given, context.sealer)
    return await loop.run_in_executor(context.text_threads, plan_response, *arguments)


def _earlier(context: ServerContext, key_id: str, wire: PromptFields) -> list[bytes]:
    """Return the items before those of the request."""
    if wire.conversation is not None:
        if wire.previous_response_id is not None:
            raise InvalidRequestError(
                "Mutually exclusive parameters: 'previous_response_id' and 'conversation'; give one of them.",
                param="conversation",
                code="mutually_exclusive_parameters",
            )
        return list(find_conversation(context.responses, key_id, wire.conversation_id).items)
    if wire.previous_response_id is None:
        return []
    chain = context.responses.chain(key_id, wire.previous_response_id)
    shown = wire.previous_response_id[:80]
    if chain is None:
        raise InvalidRequestError(
            f"Previous response with id '{shown}' not found.",
            param="previous_response_id",
            code="previous_response_not_found",
        )
    if chain[-1].is_open:
        raise InvalidRequestError(
            f"Previous response with id '{shown}' has not ended yet; continue it once its status is 'completed'.",
            param="previous_response_id",
            code="invalid_value",
        )
    return [item for entry in chain for item in entry.items]


def _headers(planned: ResponsePlan) -> dict[str, str]:
    ignored = planned.offer.ignored
    return {IGNORED_TOOLS: ", ".join(_NOT_IN_HEADERS.sub("_", kind)[:64] for kind in ignored)} if ignored else {}

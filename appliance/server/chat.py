"""POST /v1/chat/completions, plain and streamed."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from aiohttp import web

from appliance.engine.loop import TokenStream
from appliance.engine.types import Request, SamplingParams
from appliance.errors import InvalidRequestError
from appliance.models import ChatModel
from appliance.server.body import read_as
from appliance.server.chat_events import Delta, MessageReader
from appliance.server.chat_prompt import ChatPlan, plan_chat
from appliance.server.chat_response import Answer, usage_of
from appliance.server.chat_wire import ChatRequest
from appliance.server.choice import Choice
from appliance.server.chunks import stream_chunks
from appliance.server.context import CONTEXT, KEY_ID, REQUEST_ID
from appliance.server.grammar import is_held
from appliance.server.record import RECORD
from appliance.server.sampling import check_choices, sampling_params
from appliance.text.reasoning import REASONING_MARKERS, THINK, ReasoningSplitter
from appliance.text.tool_calls import visible_markers

ROUTES = web.RouteTableDef()


@ROUTES.post("/v1/chat/completions")
async def create_chat_completion(request: web.Request) -> web.StreamResponse:
    """Everything that can be refused is refused before the first byte of an answer."""
    wire = await read_as(request, ChatRequest)
    _refuse_unsupported(wire)
    context = request.app[CONTEXT]
    check_choices(wire.n, context.max_choices, "n")
    loop = asyncio.get_running_loop()
    async with context.pool.chat(wire.model) as model:
        plan = await loop.run_in_executor(context.text_threads, plan_chat, model, wire)
        with contextlib.ExitStack() as streams:
            readers = []
            for i, params in enumerate(_sampling(wire, model, plan)):
                request_id = f"{request[REQUEST_ID]}-{i}-{uuid.uuid4().hex[:8]}"
                asked = Request(request_id, plan.prompt, params, request[KEY_ID], plan.constraints[i])
                stream = request[RECORD].watch(streams.enter_context(model.engine.submit(asked)), asked)
                readers.append(_reader(i, stream, model, wire, plan, context.max_wait_s))
            answer = Answer(wire.model, model.tokenizer, wire.logprobs)
            if wire.stream:
                await readers[0].choice.begin(context.ping_interval_s)
                chunks = [_chunks(answer, reader) for reader in readers]
                last = partial(_usage_chunk, answer, len(plan.prompt), readers)
                return await stream_chunks(request, chunks, last if wire.wants_usage else None)
            return await _plain(answer, readers, len(plan.prompt))


def _sampling(wire: ChatRequest, model: ChatModel, plan: ChatPlan) -> list[SamplingParams]:
    if wire.top_logprobs is not None and not wire.logprobs:
        raise InvalidRequestError("Invalid 'top_logprobs': it needs 'logprobs' to be true.", param="top_logprobs")
    max_tokens = wire.max_completion_tokens if wire.max_completion_tokens is not None else wire.max_tokens
    num_logprobs = (wire.top_logprobs or 0) if wire.logprobs else None
    is_json = is_held(wire, plan.tools)
    return sampling_params(wire, model, len(plan.prompt), max_tokens, num_logprobs, is_held=is_json)


def _reader(
    index: int, stream: TokenStream, model: ChatModel, wire: ChatRequest, plan: ChatPlan, max_wait_s: float
) -> MessageReader:
    thinks = plan.starts_inside_reasoning or (model.template is not None and THINK in model.template.source)
    visible: tuple[str, ...] = REASONING_MARKERS if thinks else ()
    if plan.tools is not None and not plan.tools.reads_generic_form:
        visible += visible_markers(plan.tools.format)
    choice = Choice(index, stream, model.tokenizer, wire.stops, max_wait_s=max_wait_s, visible=visible)
    splitter = ReasoningSplitter(starts_inside=plan.starts_inside_reasoning) if thinks else None
    return MessageReader(choice, plan.tools, splitter)


async def _plain(answer: Answer, readers: list[MessageReader], num_prompt_tokens: int) -> web.StreamResponse:
    all_deltas = await asyncio.gather(*(_collect(reader) for reader in readers))
    choices = [answer.choice(reader, deltas) for reader, deltas in zip(readers, all_deltas, strict=True)]
    return web.json_response(answer.whole(choices, _usage(num_prompt_tokens, readers)))


async def _collect(reader: MessageReader) -> list[Delta]:
    return [delta async for delta in reader.deltas()]


def _usage(num_prompt_tokens: int, readers: list[MessageReader]) -> dict[str, Any]:
    num_reasoning_tokens = sum(reader.num_reasoning_tokens for reader in readers)
    return usage_of(num_prompt_tokens, [reader.choice for reader in readers], num_reasoning_tokens)


def _usage_chunk(answer: Answer, num_prompt_tokens: int, readers: list[MessageReader]) -> dict[str, Any]:
    return answer.usage_chunk(_usage(num_prompt_tokens, readers))


async def _chunks(answer: Answer, reader: MessageReader) -> AsyncIterator[dict[str, Any]]:
    """The deltas as they come, then the one finish reason."""
    index = reader.choice.index
    async for delta in reader.deltas():
        yield answer.chunk(index, delta)
    yield answer.chunk(index, Delta({}), finish_reason=reader.finish_reason)


def _refuse_unsupported(wire: ChatRequest) -> None:
    """To ignore any of these would be a lie."""
    if wire.audio is not None or any(m != "text" for m in wire.modalities or []):
        raise InvalidRequestError("Invalid 'modalities': this server answers with text only.", param="modalities")
    for name in ("web_search_options", "moderation"):
        if getattr(wire, name) is not None:
            raise InvalidRequestError(f"Invalid '{name}': this server has no such function.", param=name)

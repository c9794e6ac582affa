"""POST /v1/chat/completions, plain and streamed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from functools import partial

from aiohttp import web

from appliance.engine.types import SamplingParams
from appliance.errors import InvalidRequestError
from appliance.models import ChatModel
from appliance.server.context import CONTEXT
from appliance.server.http.body import read_as
from appliance.server.http.routing import Access, Routes
from appliance.server.v1.chat.grammar import is_constrained
from appliance.server.v1.chat.message import MessageReader
from appliance.server.v1.chat.prompt import ChatPlan, plan_chat
from appliance.server.v1.chat.response import ChatCompletion, ChatCompletionChunk
from appliance.server.v1.chat.wire import ChatRequest
from appliance.server.v1.chat.writer import ChatWriter
from appliance.server.v1.chunks import stream_chunks
from appliance.server.v1.generation import Generation, Origin, Prompt, generate
from appliance.server.v1.response import CompletionUsage, progress_of, timings_of, usage_of
from appliance.server.v1.sampling import check_choices, sampling_params

ROUTES = Routes()


@ROUTES.post(
    "/v1/chat/completions",
    access=Access.INFERENCE,
    operation="createChatCompletion",
    summary="The next message",
    request=ChatRequest,
    answer=ChatCompletion,
    event=ChatCompletionChunk,
)
async def create_chat_completion(request: web.Request) -> web.StreamResponse:
    """Generate the next message; all refusals come before the first byte of an answer."""
    wire = await read_as(request, ChatRequest)
    context = request.app[CONTEXT]
    _refuse_unsupported(wire)
    check_choices(wire.n, context.max_choices, "n")
    loop = asyncio.get_running_loop()
    async with context.pool.chat(wire.model) as model:
        plan = await loop.run_in_executor(context.text_threads, plan_chat, model, wire)
        writer = ChatWriter(wire.model, model.tokenizer, wire.logprobs)
        prompt = Prompt(plan.prompt, _sampling(wire, model, plan), plan.constraints, borders=plan.borders)
        tells = wire.stream and wire.return_progress
        asked = generate(
            Origin.of(request), model, [prompt], stops=wire.stops, visible=plan.visible, tells_progress=tells
        )
        async with asked as generation:
            messages = [MessageReader(choice.index, plan.tools, plan.splitter()) for choice in generation.choices]
            if wire.stream:
                writers = [partial(writer.chunks, message) for message in messages]
                usage_chunk = partial(_usage_chunk, writer, generation, messages)
                before = _progress(writer, generation) if tells else None
                return await stream_chunks(
                    request, generation, writers, usage_chunk, wants_usage=wire.wants_usage, before=before
                )
            collected = await generation.collect()
    choices = [writer.choice(message, pieces) for message, pieces in zip(messages, collected, strict=True)]
    return web.json_response(writer.completion(choices, _usage(generation, messages), timings_of(generation)))


async def _progress(writer: ChatWriter, generation: Generation) -> AsyncIterator[ChatCompletionChunk]:
    """Yield the chunks before the first token: the places in the queue, then the progress of the prompt."""
    async for place in generation.places():
        yield writer.place_chunk(place)
    async for reading in generation.readings():
        yield writer.progress_chunk(progress_of(reading))


def _sampling(wire: ChatRequest, model: ChatModel, plan: ChatPlan) -> list[SamplingParams]:
    if wire.top_logprobs is not None and not wire.logprobs:
        raise InvalidRequestError("Invalid 'top_logprobs': it needs 'logprobs' to be true.", param="top_logprobs")
    max_tokens = wire.max_completion_tokens if wire.max_completion_tokens is not None else wire.max_tokens
    num_logprobs = (wire.top_logprobs or 0) if wire.logprobs else None
    is_json = is_constrained(wire, plan.tools)
    return sampling_params(wire, model, len(plan.prompt), max_tokens, num_logprobs, is_constrained=is_json)


def _usage(generation: Generation, messages: Sequence[MessageReader]) -> CompletionUsage:
    return usage_of(generation, sum(message.num_reasoning_tokens for message in messages))


def _usage_chunk(writer: ChatWriter, generation: Generation, messages: Sequence[MessageReader]) -> ChatCompletionChunk:
    return writer.usage_chunk(_usage(generation, messages), timings_of(generation))


def _refuse_unsupported(wire: ChatRequest) -> None:
    """Refuse what this server would otherwise have to ignore."""
    if wire.audio is not None or any(m != "text" for m in wire.modalities or []):
        raise InvalidRequestError("Invalid 'modalities': this server answers with text only.", param="modalities")
    for name in ("web_search_options", "moderation"):
        if getattr(wire, name) is not None:
            raise InvalidRequestError(f"Invalid '{name}': this server has no such function.", param=name)

"""POST /v1/chat/completions, plain and streamed."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web

from appliance.engine.types import Request
from appliance.errors import InvalidRequestError
from appliance.models import ChatModel
from appliance.server.body import read_as
from appliance.server.chat_prompt import encode_prompt
from appliance.server.chat_response import Answer, usage_of
from appliance.server.chat_wire import ChatRequest
from appliance.server.choice import Choice, TextPiece
from appliance.server.context import CONTEXT, KEY_ID, REQUEST_ID
from appliance.server.sampling import chat_sampling
from appliance.server.sse import event_stream

ROUTES = web.RouteTableDef()


@ROUTES.post("/v1/chat/completions")
async def create_chat_completion(request: web.Request) -> web.StreamResponse:
    """Everything that can be refused is refused before the first byte of an answer."""
    wire = await read_as(request, ChatRequest)
    _refuse_unsupported(wire)
    context = request.app[CONTEXT]
    model = context.pool.chat(wire.model)
    loop = asyncio.get_running_loop()
    prompt = await loop.run_in_executor(context.text_threads, encode_prompt, model, wire)
    with contextlib.ExitStack() as streams:
        choices = []
        for i, params in enumerate(chat_sampling(wire, model, len(prompt))):
            request_id = f"{request[REQUEST_ID]}-{i}-{uuid.uuid4().hex[:8]}"
            asked = Request(request_id, prompt, params, cache_key=request[KEY_ID])
            stream = streams.enter_context(model.engine.submit(asked))
            choices.append(Choice(i, stream, model.tokenizer, wire.stops))
        if wire.stream:
            return await _stream(request, wire, model, choices, len(prompt))
        return await _plain(wire, model, choices, len(prompt))


async def _plain(
    wire: ChatRequest, model: ChatModel, choices: list[Choice], num_prompt_tokens: int
) -> web.StreamResponse:
    answer = Answer(wire.model, model.tokenizer, wire.logprobs)
    all_pieces = await asyncio.gather(*(_collect(choice) for choice in choices))
    finished = [answer.choice(choice, pieces) for choice, pieces in zip(choices, all_pieces, strict=True)]
    return web.json_response(answer.whole(finished, usage_of(num_prompt_tokens, choices)))


async def _collect(choice: Choice) -> list[TextPiece]:
    return [piece async for piece in choice.pieces()]


async def _stream(
    request: web.Request, wire: ChatRequest, model: ChatModel, choices: list[Choice], num_prompt_tokens: int
) -> web.StreamResponse:
    context = request.app[CONTEXT]
    answer = Answer(wire.model, model.tokenizer, wire.logprobs)
    with_usage = wire.stream_options is not None and wire.stream_options.include_usage
    async with event_stream(
        request,
        headers={"x-request-id": request[REQUEST_ID]},
        ping_interval_s=context.ping_interval_s,
        write_timeout_s=context.write_timeout_s,
    ) as events:
        async for chunk in _merged([_chunks(answer, choice) for choice in choices]):
            await events.send({**chunk, "usage": None} if with_usage else chunk)
        if with_usage:
            await events.send(answer.usage_chunk(usage_of(num_prompt_tokens, choices)))
        await events.done()
    return events.response


async def _chunks(answer: Answer, choice: Choice) -> AsyncIterator[dict[str, Any]]:
    """The role with the first token, the text, then the one finish reason."""
    is_first = True
    async for piece in choice.pieces():
        if is_first:
            yield answer.chunk(choice.index, {"role": "assistant", "content": "", "refusal": None})
            is_first = False
        if piece.text or piece.logprobs:
            yield answer.chunk(choice.index, {"content": piece.text}, piece)
    yield answer.chunk(choice.index, {}, finish_reason=choice.finish_reason)


async def _merged(sources: list[AsyncIterator[dict[str, Any]]]) -> AsyncIterator[dict[str, Any]]:
    """The chunks of several choices as they come."""
    if len(sources) == 1:
        async for chunk in sources[0]:
            yield chunk
        return
    chunks: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

    async def forward(source: AsyncIterator[dict[str, Any]]) -> None:
        try:
            async for chunk in source:
                chunks.put_nowait(chunk)
        finally:
            chunks.put_nowait(None)

    tasks = [asyncio.create_task(forward(source)) for source in sources]
    try:
        num_open = len(tasks)
        while num_open:
            chunk = await chunks.get()
            if chunk is None:
                num_open -= 1
            else:
                yield chunk
        for task in tasks:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _refuse_unsupported(wire: ChatRequest) -> None:
    """To ignore any of these would be a lie."""
    if wire.audio is not None or any(m != "text" for m in wire.modalities or []):
        raise InvalidRequestError("Invalid 'modalities': this server answers with text only.", param="modalities")
    for name in ("web_search_options", "moderation"):
        if getattr(wire, name) is not None:
            raise InvalidRequestError(f"Invalid '{name}': this server has no such function.", param=name)
    for name in ("tools", "functions"):
        if getattr(wire, name):
            raise InvalidRequestError(f"Invalid '{name}': tools are not supported yet.", param=name)
    if wire.response_format is not None and wire.response_format.type != "text":
        raise InvalidRequestError(
            "Invalid 'response_format': only text is supported yet.", param="response_format.type"
        )

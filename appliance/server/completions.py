"""POST /v1/completions: text is continued as it stands, without a template."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Annotated, Any

from aiohttp import web
from pydantic import Field

from appliance.engine.types import Request
from appliance.errors import InvalidRequestError
from appliance.models import ChatModel
from appliance.server.body import read_as
from appliance.server.chat_response import FINGERPRINT, usage_of
from appliance.server.choice import Choice, TextPiece, TokenRecord
from appliance.server.context import CONTEXT, KEY_ID, REQUEST_ID
from appliance.server.merge import merged
from appliance.server.sampling import SamplingFields, sampling_params
from appliance.server.sse import event_stream
from appliance.text.tokenizer import Tokenizer

ROUTES = web.RouteTableDef()

MAX_PROMPTS = 32
_MAX_CHARACTERS_PER_TOKEN = 64


class CompletionsRequest(SamplingFields):
    """The request (OpenAI's CreateCompletionRequest)."""

    prompt: str | list[Any] = ""
    max_tokens: Annotated[int, Field(ge=0)] = 16
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    echo: bool = False
    suffix: str | None = None
    best_of: Annotated[int, Field(ge=1)] | None = None


@dataclass(frozen=True, slots=True)
class _Prompt:
    text: str
    tokens: tuple[int, ...]


@ROUTES.post("/v1/completions")
async def create_completion(request: web.Request) -> web.StreamResponse:
    """Each prompt is continued `n` times; choices are numbered prompt by prompt."""
    wire = await read_as(request, CompletionsRequest)
    _refuse_unsupported(wire)
    context = request.app[CONTEXT]
    model = context.pool.chat(wire.model)
    loop = asyncio.get_running_loop()
    prompts = await loop.run_in_executor(context.text_threads, _encode_prompts, model, wire)
    with contextlib.ExitStack() as streams:
        choices: list[Choice] = []
        for prompt in prompts:
            for params in sampling_params(wire, model, len(prompt.tokens), wire.max_tokens, wire.logprobs):
                request_id = f"{request[REQUEST_ID]}-{len(choices)}-{uuid.uuid4().hex[:8]}"
                asked = Request(request_id, prompt.tokens, params, request[KEY_ID])
                stream = streams.enter_context(model.engine.submit(asked))
                choices.append(Choice(len(choices), stream, model.tokenizer, wire.stops))
        answer = _Answer(wire.model, model.tokenizer, wire.logprobs)
        echoes = [p.text if wire.echo else "" for p in prompts for _ in range(wire.n)]
        num_prompt_tokens = sum(len(p.tokens) for p in prompts)
        if wire.stream:
            return await _stream(request, wire, answer, choices, echoes, num_prompt_tokens)
        all_pieces = await asyncio.gather(*(_collect(choice) for choice in choices))
    finished = [
        answer.choice(c, e + "".join(p.text for p in pieces), pieces, len(e), c.finish_reason)
        for c, e, pieces in zip(choices, echoes, all_pieces, strict=True)
    ]
    return web.json_response(answer.object(finished, usage_of(num_prompt_tokens, choices)))


async def _collect(choice: Choice) -> list[TextPiece]:
    return [piece async for piece in choice.pieces()]


async def _stream(
    request: web.Request,
    wire: CompletionsRequest,
    answer: _Answer,
    choices: list[Choice],
    echoes: list[str],
    num_prompt_tokens: int,
) -> web.StreamResponse:
    context = request.app[CONTEXT]
    with_usage = wire.stream_options is not None and wire.stream_options.include_usage
    async with event_stream(
        request,
        headers={"x-request-id": request[REQUEST_ID]},
        ping_interval_s=context.ping_interval_s,
        write_timeout_s=context.write_timeout_s,
    ) as events:
        async for chunk in merged([answer.chunks(c, e) for c, e in zip(choices, echoes, strict=True)]):
            await events.send({**chunk, "usage": None} if with_usage else chunk)
        if with_usage:
            await events.send(answer.object([], usage_of(num_prompt_tokens, choices)))
        await events.done()
    return events.response


@dataclass(frozen=True, slots=True)
class _Answer:
    model: str
    tokenizer: Tokenizer
    num_logprobs: int | None
    id: str = field(default_factory=lambda: f"cmpl-{uuid.uuid4().hex}")
    created_s: int = field(default_factory=lambda: int(time.time()))

    def object(self, choices: list[dict[str, Any]], usage: dict[str, Any] | None = None) -> dict[str, Any]:
        """A `text_completion`; a chunk of a stream has the same form."""
        body: dict[str, Any] = {"id": self.id, "object": "text_completion", "created": self.created_s}
        body |= {"model": self.model, "system_fingerprint": FINGERPRINT, "choices": choices}
        return {**body, "usage": usage} if usage is not None else body

    def choice(
        self, choice: Choice, text: str, pieces: list[TextPiece], offset: int, finish_reason: str | None
    ) -> dict[str, Any]:
        """One choice, whole or in part; `offset`: characters of the choice's text before these pieces."""
        records = [r for p in pieces for r in p.logprobs]
        logprobs = self._logprobs(records, offset) if self.num_logprobs is not None else None
        return {"index": choice.index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}

    async def chunks(self, choice: Choice, echo: str) -> AsyncIterator[dict[str, Any]]:
        """The echoed prompt, the text as it comes, then the finish reason."""
        offset = len(echo)
        if echo:
            yield self.object([self.choice(choice, echo, [], 0, None)])
        async for piece in choice.pieces():
            if piece.text or piece.logprobs:
                yield self.object([self.choice(choice, piece.text, [piece], offset, None)])
                offset += len(piece.text)
        yield self.object([self.choice(choice, "", [], offset, choice.finish_reason)])

    def _logprobs(self, records: list[TokenRecord], offset: int) -> dict[str, Any]:
        offsets = []
        for record in records:
            offsets.append(offset)
            offset += len(self._text(record.token))
        return {
            "tokens": [self._text(r.token) for r in records],
            "token_logprobs": [r.logprobs.logprob for r in records],
            "top_logprobs": [{self._text(t): p for t, p in r.logprobs.top} for r in records],
            "text_offset": offsets,
        }

    def _text(self, token: int) -> str:
        return self.tokenizer.token_bytes(token).decode("utf-8", "replace")


def _refuse_unsupported(wire: CompletionsRequest) -> None:
    if wire.suffix:
        raise InvalidRequestError("Invalid 'suffix': this model cannot fill in the middle.", param="suffix")
    if wire.best_of is not None and wire.best_of != wire.n:
        raise InvalidRequestError("Invalid 'best_of': only the value of 'n' is supported.", param="best_of")
    if wire.echo and wire.logprobs is not None:
        raise InvalidRequestError(
            "Invalid 'echo': log probabilities of the prompt are not supported; leave out 'echo' or 'logprobs'.",
            param="echo",
        )


def _encode_prompts(model: ChatModel, wire: CompletionsRequest) -> list[_Prompt]:
    value = wire.prompt
    if isinstance(value, str) or (value and all(_is_token(x) for x in value)):
        return [_encode(model, value, "prompt")]
    if not value or len(value) > MAX_PROMPTS:
        raise InvalidRequestError(f"Invalid 'prompt': 1 to {MAX_PROMPTS} prompts are taken.", param="prompt")
    return [_encode(model, item, f"prompt[{i}]") for i, item in enumerate(value)]


def _encode(model: ChatModel, value: object, param: str) -> _Prompt:
    tokenizer = model.tokenizer
    if isinstance(value, str):
        if len(value) > model.engine.capacity * _MAX_CHARACTERS_PER_TOKEN:
            model.engine.check(len(value), param=param)
        text, tokens = value, tokenizer.encode_framed(value)
    elif isinstance(value, list) and value and all(_is_token(x) for x in value):
        tokens = tuple(value)
        if not all(0 <= t < tokenizer.vocab_size for t in tokens):
            raise InvalidRequestError(f"Invalid '{param}': a token is not in the vocabulary.", param=param)
        text = b"".join(map(tokenizer.token_bytes, tokens)).decode("utf-8", "replace")
    else:
        raise InvalidRequestError(
            f"Invalid '{param}': a string or a non-empty list of tokens is needed.", param=param, code="invalid_type"
        )
    if not tokens:  # as OpenAI does, an empty prompt is the beginning of a document
        tokens = (model.spec.bos_token_id if model.spec.bos_token_id is not None else model.spec.eos_token_ids[0],)
    model.engine.check(len(tokens), param=param)
    return _Prompt(text, tokens)


def _is_token(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)

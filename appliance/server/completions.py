"""POST /v1/completions: text is continued as it stands, without a template."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from aiohttp import web
from pydantic import Field, WithJsonSchema

from appliance.engine.types import Request
from appliance.errors import InvalidRequestError
from appliance.models import ChatModel
from appliance.server.body import read_as
from appliance.server.chat_response import usage_of
from appliance.server.choice import Choice, TextPiece
from appliance.server.chunks import stream_chunks
from appliance.server.completion_response import CompletionAnswer, Echo
from appliance.server.context import CONTEXT, KEY_ID, REQUEST_ID
from appliance.server.record import RECORD
from appliance.server.sampling import MAX_CHOICES, SamplingFields, check_choices, sampling_params

ROUTES = web.RouteTableDef()

MAX_PROMPTS = 32
_TOKENS = {"type": "array", "minItems": 1, "items": {"type": "integer"}}
_PROMPT_FORMS: dict[str, Any] = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "minItems": 1, "maxItems": MAX_PROMPTS, "items": {"type": "string"}},
        _TOKENS,
        {"type": "array", "minItems": 1, "maxItems": MAX_PROMPTS, "items": _TOKENS},
    ]
}
_MAX_CHARACTERS_PER_TOKEN = 64


class CompletionsRequest(SamplingFields):
    """The request (OpenAI's CreateCompletionRequest)."""

    prompt: Annotated[str | list[Any], WithJsonSchema(_PROMPT_FORMS)] = ""
    max_tokens: Annotated[int, Field(ge=0)] = 16
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    echo: bool = False
    suffix: Annotated[str | None, WithJsonSchema({"type": "null", "description": "Refused."})] = None
    best_of: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None

    @property
    def num_samples(self) -> int:
        """Answers to sample, of which the `n` best are given."""
        return self.best_of if self.best_of is not None else self.n


@dataclass(frozen=True, slots=True)
class _Prompt:
    """What is computed, and what of it is shown where it is echoed."""

    tokens: tuple[int, ...]
    echo: Echo


@ROUTES.post("/v1/completions")
async def create_completion(request: web.Request) -> web.StreamResponse:
    """Each prompt is continued `n` times; choices are numbered prompt by prompt."""
    wire = await read_as(request, CompletionsRequest)
    _refuse_unsupported(wire, request.app[CONTEXT].max_choices)
    async with request.app[CONTEXT].pool.chat(wire.model) as model:
        return await _complete(request, wire, model)


async def _complete(request: web.Request, wire: CompletionsRequest, model: ChatModel) -> web.StreamResponse:
    context = request.app[CONTEXT]
    loop = asyncio.get_running_loop()
    prompts = await loop.run_in_executor(context.text_threads, _encode_prompts, model, wire)
    with contextlib.ExitStack() as streams:
        choices = [choice for prompt in prompts for choice in _choices(request, wire, model, prompt, streams)]
        for index, choice in enumerate(choices):
            choice.index = index
        answer = CompletionAnswer(wire.model, model.tokenizer, wire.logprobs)
        echoes = [p.echo if wire.echo else None for p in prompts for _ in range(wire.num_samples)]
        num_prompt_tokens = sum(len(p.tokens) for p in prompts)
        if wire.stream:
            await choices[0].begin(context.ping_interval_s)
            chunks = [answer.chunks(choice, echo) for choice, echo in zip(choices, echoes, strict=True)]
            last = partial(_usage_chunk, answer, num_prompt_tokens, choices)
            return await stream_chunks(request, chunks, last if wire.wants_usage else None)
        all_pieces = await asyncio.gather(*(_collect(choice) for choice in choices))
    usage = usage_of(num_prompt_tokens, choices)
    finished = [(choice, echo, pieces) for choice, echo, pieces in zip(choices, echoes, all_pieces, strict=True)]
    best = [f for i in range(len(prompts)) for f in _best(finished[i * wire.num_samples :][: wire.num_samples], wire.n)]
    for index, (choice, _, _) in enumerate(best):
        choice.index = index
    return web.json_response(answer.object([answer.whole(*f) for f in best], usage))


def _choices(
    request: web.Request, wire: CompletionsRequest, model: ChatModel, prompt: _Prompt, streams: contextlib.ExitStack
) -> list[Choice]:
    """The samples of one prompt, submitted."""
    chooses = wire.num_samples > wire.n
    num_logprobs = 0 if chooses and wire.logprobs is None else wire.logprobs
    made: list[Choice] = []
    for params in sampling_params(
        wire, model, len(prompt.tokens), wire.max_tokens, num_logprobs, num_choices=wire.num_samples
    ):
        request_id = f"{request[REQUEST_ID]}-{uuid.uuid4().hex[:12]}"
        scores_prompt = wire.echo and wire.logprobs is not None
        asked = Request(request_id, prompt.tokens, params, request[KEY_ID], scores_prompt=scores_prompt)
        stream = request[RECORD].watch(streams.enter_context(model.engine.submit(asked)), asked)
        max_wait_s = request.app[CONTEXT].max_wait_s
        made.append(Choice(len(made), stream, model.tokenizer, wire.stops, max_wait_s=max_wait_s))
    return made


_Finished = tuple[Choice, Echo | None, list[TextPiece]]


def _best(finished: list[_Finished], num_best: int) -> list[_Finished]:
    """Those with the highest log probability per token, best first, as OpenAI defines `best_of`."""
    if num_best == len(finished):
        return finished

    def mean_logprob(answer: _Finished) -> float:
        logprobs = [record.logprobs.logprob for piece in answer[2] for record in piece.logprobs]
        return sum(logprobs) / len(logprobs) if logprobs else 0.0

    return sorted(finished, key=mean_logprob, reverse=True)[:num_best]


def _usage_chunk(answer: CompletionAnswer, num_prompt_tokens: int, choices: list[Choice]) -> dict[str, Any]:
    return answer.object([], usage_of(num_prompt_tokens, choices))


async def _collect(choice: Choice) -> list[TextPiece]:
    return [piece async for piece in choice.pieces()]


def _refuse_unsupported(wire: CompletionsRequest, max_choices: int) -> None:
    check_choices(wire.n, max_choices, "n")
    if wire.suffix:
        raise InvalidRequestError("Invalid 'suffix': this model cannot fill in the middle.", param="suffix")
    check_choices(wire.num_samples, max_choices, "best_of")
    if wire.num_samples < wire.n:
        raise InvalidRequestError("Invalid 'best_of': it cannot be less than 'n'.", param="best_of")
    if wire.num_samples > wire.n and wire.stream:
        raise InvalidRequestError("Invalid 'best_of': a stream cannot choose among its answers.", param="best_of")


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
        model.engine.check(len(value), param=param)
        tokens = tuple(value)
        if not all(0 <= t < tokenizer.vocab_size for t in tokens):
            raise InvalidRequestError(f"Invalid '{param}': a token is not in the vocabulary.", param=param)
        text = b"".join(map(tokenizer.token_bytes, tokens)).decode("utf-8", "replace")
    else:
        raise InvalidRequestError(
            f"Invalid '{param}': a string or a non-empty list of tokens is needed.", param=param, code="invalid_type"
        )
    num_framing = len(tokens) - len(tokenizer.encode(text)) if isinstance(value, str) else 0
    if not tokens:  # as OpenAI does, an empty prompt is the beginning of a document
        tokens = (model.spec.bos_token_id if model.spec.bos_token_id is not None else model.spec.eos_token_ids[0],)
    model.engine.check(len(tokens), param=param)
    return _Prompt(tokens, Echo(text, tokens, num_framing))


def _is_token(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)

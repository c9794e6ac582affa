"""POST /v1/completions: text is continued as it stands, without a template."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

from aiohttp import web

from appliance.errors import InvalidRequestError
from appliance.models import ChatModel
from appliance.server.context import CONTEXT
from appliance.server.http.body import read_as
from appliance.server.http.routing import Access, Routes
from appliance.server.v1.choice import TextPiece
from appliance.server.v1.chunks import stream_chunks
from appliance.server.v1.completions.prompt import encode_prompts
from appliance.server.v1.completions.response import Completion, CompletionChunk
from appliance.server.v1.completions.wire import CompletionsRequest
from appliance.server.v1.completions.writer import CompletionWriter, Continuation, Echo
from appliance.server.v1.generation import Generation, Origin, Prompt, generate
from appliance.server.v1.response import timings_of, usage_of
from appliance.server.v1.sampling import check_choices, sampling_params

ROUTES = Routes()

_Finished = tuple[Continuation, list[TextPiece]]


@ROUTES.post(
    "/v1/completions",
    access=Access.INFERENCE,
    operation="createCompletion",
    summary="Text continued as it stands",
    request=CompletionsRequest,
    answer=Completion,
    event=CompletionChunk,
)
async def create_completion(request: web.Request) -> web.StreamResponse:
    """Continue each prompt `n` times; choices are numbered prompt by prompt."""
    wire = await read_as(request, CompletionsRequest)
    context = request.app[CONTEXT]
    _refuse_unsupported(wire, context.max_choices)
    loop = asyncio.get_running_loop()
    async with context.pool.chat(wire.model) as model:
        echoes = await loop.run_in_executor(context.text_threads, encode_prompts, model, wire)
        writer = CompletionWriter(wire.model, model.tokenizer, wire.logprobs)
        prompts = [_prompt(wire, model, echo) for echo in echoes]
        async with generate(Origin.of(request), model, prompts, stops=wire.stops) as generation:
            sampled = [echo if wire.echo else None for echo in echoes for _ in range(wire.num_samples)]
            continuations = [Continuation(*pair) for pair in zip(generation.choices, sampled, strict=True)]
            if wire.stream:
                writers = [partial(writer.chunks, continuation) for continuation in continuations]
                usage_chunk = partial(_usage_chunk, writer, generation)
                return await stream_chunks(request, generation, writers, usage_chunk, wants_usage=wire.wants_usage)
            finished = list(zip(continuations, await generation.collect(), strict=True))
    best = _best_of_each_prompt(finished, num_samples=wire.num_samples, num_best=wire.n)
    choices = [writer.choice(index, continuation, pieces) for index, (continuation, pieces) in enumerate(best)]
    return web.json_response(writer.completion(choices, usage_of(generation), timings_of(generation)))


def _prompt(wire: CompletionsRequest, model: ChatModel, echo: Echo) -> Prompt:
    is_ranked = wire.num_samples > wire.n
    num_logprobs = 0 if is_ranked and wire.logprobs is None else wire.logprobs
    params = sampling_params(wire, model, len(echo.tokens), wire.max_tokens, num_logprobs, num_choices=wire.num_samples)
    return Prompt(echo.tokens, params, is_scored=wire.echo and wire.logprobs is not None)


def _best_of_each_prompt(finished: Sequence[_Finished], *, num_samples: int, num_best: int) -> list[_Finished]:
    """Return the samples with the highest log probability per token, best first, as OpenAI defines `best_of`."""
    if num_best == num_samples:
        return list(finished)
    best: list[_Finished] = []
    for start in range(0, len(finished), num_samples):
        samples = finished[start : start + num_samples]
        best += sorted(samples, key=_mean_logprob, reverse=True)[:num_best]
    return best


def _mean_logprob(sample: _Finished) -> float:
    logprobs = [record.logprobs.logprob for piece in sample[1] for record in piece.logprobs]
    return sum(logprobs) / len(logprobs) if logprobs else 0.0


def _usage_chunk(writer: CompletionWriter, generation: Generation) -> CompletionChunk:
    return writer.usage_chunk(usage_of(generation), timings_of(generation))


def _refuse_unsupported(wire: CompletionsRequest, max_choices: int) -> None:
    check_choices(wire.n, max_choices, "n")
    if wire.suffix:
        raise InvalidRequestError("Invalid 'suffix': this model cannot fill in the middle.", param="suffix")
    check_choices(wire.num_samples, max_choices, "best_of")
    if wire.num_samples < wire.n:
        raise InvalidRequestError("Invalid 'best_of': it cannot be less than 'n'.", param="best_of")
    if wire.num_samples > wire.n and wire.stream:
        raise InvalidRequestError("Invalid 'best_of': a stream cannot choose among its answers.", param="best_of")

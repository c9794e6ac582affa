"""POST /v1/embeddings: texts or tokens become unit vectors that do not depend on their batch."""

from __future__ import annotations

import asyncio
import base64
from typing import Annotated, Any, Literal

import numpy as np
from aiohttp import web
from numpy.typing import NDArray
from pydantic import Field, WithJsonSchema

from appliance.errors import ContextLengthError, InvalidRequestError
from appliance.models import EmbeddingModel
from appliance.server.context import CONTEXT, ServerContext
from appliance.server.http.body import read_as
from appliance.server.http.record import RECORD
from appliance.server.http.routing import Access, Routes
from appliance.server.http.wire import EXTENSION, Answer, Wire
from appliance.server.v1.sampling import ModelId
from appliance.server.v1.tokens import MAX_CHARACTERS_PER_TOKEN, TOKENS_SCHEMA, are_tokens, no_text_or_tokens

ROUTES = Routes()

MAX_INPUTS = 2048
_TEXT = {"type": "string", "minLength": 1}
_INPUT_FORMS: dict[str, Any] = {
    "anyOf": [
        _TEXT,
        {"type": "array", "minItems": 1, "maxItems": MAX_INPUTS, "items": _TEXT},
        TOKENS_SCHEMA,
        {"type": "array", "minItems": 1, "maxItems": MAX_INPUTS, "items": TOKENS_SCHEMA},
    ]
}


class EmbeddingsRequest(Wire):
    """The request, with two extensions.

    `truncate` cuts long inputs instead of refusing them; `prompt_name` names the bundle's prompt that comes in front of
    each text, in place of its default one.
    """

    model: ModelId
    input: Annotated[str | list[Any], WithJsonSchema(_INPUT_FORMS)]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1)] | None = None
    user: str | None = None
    truncate: bool = Field(default=False, json_schema_extra=EXTENSION)
    prompt_name: Annotated[str, Field(max_length=256)] | None = Field(default=None, json_schema_extra=EXTENSION)


class Embedding(Answer):
    """A unit vector: numbers, or little-endian float32 in base64 where that was asked for."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(Answer):
    """Tokens of all inputs."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(Answer):
    """One vector for each input, in order."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


@ROUTES.post(
    "/v1/embeddings",
    access=Access.INFERENCE,
    operation="createEmbedding",
    summary="Texts as unit vectors",
    request=EmbeddingsRequest,
    answer=EmbeddingList,
)
async def create_embeddings(request: web.Request) -> web.Response:
    """Return one vector for each input, in order."""
    wire = await read_as(request, EmbeddingsRequest)
    context = request.app[CONTEXT]
    inputs = _inputs_of(wire.input)
    loop = asyncio.get_running_loop()
    async with context.pool.embedding(wire.model) as model:
        _check_dimensions(model, wire.dimensions)
        inputs = await loop.run_in_executor(context.text_threads, _as_texts, context, inputs)
        inputs = _prompted(model, inputs, wire.prompt_name)
        sequences = await loop.run_in_executor(context.text_threads, _encode, model, inputs, wire.truncate)
        vectors = _cut(await model.embedder.submit(sequences, max_wait_s=context.max_wait_s), wire.dimensions)
    num_tokens = sum(len(s) for s in sequences)
    request[RECORD].count_prompt(num_tokens)
    body: EmbeddingList = {
        "object": "list",
        "data": [
            {"object": "embedding", "index": i, "embedding": _format(vector, wire.encoding_format)}
            for i, vector in enumerate(vectors)
        ],
        "model": wire.model,
        "usage": {"prompt_tokens": num_tokens, "total_tokens": num_tokens},
    }
    return web.json_response(body)


def _inputs_of(value: str | list[Any]) -> list[str | list[int]]:
    """Return the inputs of the four forms of `input`: a text, texts, tokens, lists of tokens."""
    if isinstance(value, str):
        return [_text(value, "input")]
    if not value:
        raise InvalidRequestError("Invalid 'input': it must not be empty.", param="input")
    if are_tokens(value):
        return [value]
    if len(value) > MAX_INPUTS:
        raise InvalidRequestError(f"Invalid 'input': at most {MAX_INPUTS} inputs are taken at once.", param="input")
    return [_item(x, f"input[{i}]") for i, x in enumerate(value)]


def _item(value: object, param: str) -> str | list[int]:
    if isinstance(value, str):
        return _text(value, param)
    if are_tokens(value):
        return value
    raise no_text_or_tokens(param)


def _text(value: str, param: str) -> str:
    if not value:
        raise InvalidRequestError(f"Invalid '{param}': it must not be an empty string.", param=param)
    return value


def _as_texts(context: ServerContext, inputs: list[str | list[int]]) -> list[str | list[int]]:
    """Return the inputs with the tokens of OpenAI's vocabulary as the text that they stand for.

    Raises:
        InvalidRequestError: tokens are not taken, or not known.
    """
    if context.token_ids == "own" or all(isinstance(item, str) for item in inputs):  # noqa: S105  # no secret
        return inputs
    if context.token_ids == "refuse":  # noqa: S105  # no secret
        raise InvalidRequestError("Invalid 'input': this device takes texts only, not tokens.", param="input")
    params = _params(inputs)
    return [
        item if isinstance(item, str) else context.cl100k.text(item, param=param)
        for item, param in zip(inputs, params, strict=True)
    ]


def _params(inputs: list[str | list[int]]) -> list[str]:
    return [f"input[{i}]" for i in range(len(inputs))] if len(inputs) > 1 else ["input"]


def _prompted(model: EmbeddingModel, inputs: list[str | list[int]], prompt_name: str | None) -> list[str | list[int]]:
    """Put the named prompt or the default one in front of each text; tokens stay as they are."""
    prompts = model.spec.prompts
    name = prompt_name if prompt_name is not None else model.spec.default_prompt_name
    if name is None:
        return inputs
    if name not in prompts:
        known = f"one of {', '.join(prompts)}" if prompts else "nothing, since this model has no prompts"
        raise InvalidRequestError(f"Invalid 'prompt_name': {model.bundle.name} takes {known}.", param="prompt_name")
    if prompt_name is not None and not all(isinstance(item, str) for item in inputs):
        raise InvalidRequestError("Invalid 'prompt_name': a prompt needs texts, not tokens.", param="prompt_name")
    return [prompts[name] + item if isinstance(item, str) else item for item in inputs]


def _encode(model: EmbeddingModel, inputs: list[str | list[int]], truncate: bool) -> list[tuple[int, ...]]:
    return [_encode_item(model, item, param, truncate) for item, param in zip(inputs, _params(inputs), strict=True)]


def _encode_item(model: EmbeddingModel, item: str | list[int], param: str, truncate: bool) -> tuple[int, ...]:
    limit = model.spec.max_tokens
    tokens = _encode_text(model, item, limit, param, truncate) if isinstance(item, str) else tuple(item)
    if len(tokens) > limit:
        if not truncate:
            raise _too_long(limit, f"{len(tokens)} tokens", param)
        tokens = model.tokenizer.cut(tokens, limit)
    if not isinstance(item, str) and not all(0 <= t < model.tokenizer.vocab_size for t in tokens):
        raise InvalidRequestError(f"Invalid '{param}': a token is not in the vocabulary.", param=param)
    return tokens


def _encode_text(model: EmbeddingModel, text: str, limit: int, param: str, truncate: bool) -> tuple[int, ...]:
    most = limit * MAX_CHARACTERS_PER_TOKEN
    if len(text) > most and not truncate:
        raise _too_long(limit, f"{len(text)} characters", param)
    return model.tokenizer.encode_framed(text[:most])


def _too_long(limit: int, found: str, param: str) -> ContextLengthError:
    return ContextLengthError(
        f"This model's maximum context length is {limit} tokens, however you requested {found}. "
        'Please reduce your input, or send "truncate": true.',
        param=param,
    )


def _check_dimensions(model: EmbeddingModel, dimensions: int | None) -> None:
    spec = model.spec
    if dimensions is None or dimensions == spec.dimensions or dimensions in spec.matryoshka_dimensions:
        return
    allowed = sorted({spec.dimensions, *spec.matryoshka_dimensions})
    raise InvalidRequestError(
        f"Invalid 'dimensions': {model.bundle.name} makes vectors of {' or '.join(map(str, allowed))} dimensions.",
        param="dimensions",
    )


def _cut(vectors: NDArray[np.float32], dimensions: int | None) -> NDArray[np.float32]:
    if dimensions is None or dimensions == vectors.shape[1]:
        return vectors
    cut = vectors[:, :dimensions].copy()
    cut /= np.linalg.norm(cut, axis=1, keepdims=True)
    return cut


def _format(vector: NDArray[np.float32], encoding_format: str) -> str | list[float]:
    if encoding_format == "base64":
        return base64.b64encode(np.ascontiguousarray(vector, "<f4").tobytes()).decode("ascii")
    values: list[float] = vector.astype(np.float64).round(9).tolist()
    return values

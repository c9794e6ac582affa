"""POST /v1/rerank: documents by their relevance to a query, in the shape that Jina's and Cohere's clients know.

Each document is read together with the query by a cross-encoder; its score depends on no other document.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from typing import Annotated, Literal, NotRequired

import numpy as np
from aiohttp import web
from numpy.typing import NDArray
from pydantic import Field

from appliance.engine.texts.embedder import TokenPair
from appliance.errors import ContextLengthError, InvalidRequestError
from appliance.models import RerankModel
from appliance.server.context import CONTEXT
from appliance.server.http.body import read_as
from appliance.server.http.record import RECORD
from appliance.server.http.routing import Access, Routes
from appliance.server.http.wire import EXTENSION, Answer, Wire
from appliance.server.v1.sampling import ModelId
from appliance.server.v1.tokens import MAX_CHARACTERS_PER_TOKEN
from appliance.text.pair import Pairing

ROUTES = Routes()

MAX_DOCUMENTS = 1000


class RerankDocument(Wire):
    """A document as an object; other fields than its text are ignored."""

    text: str


class RerankRequest(Wire):
    """The request; a pair that is too long loses the end of its document unless `truncate` is false.

    `instruction` tells a model with a prompt what makes a document relevant, in place of the default.
    """

    model: ModelId
    query: Annotated[str, Field(min_length=1)]
    documents: Annotated[list[str | RerankDocument], Field(min_length=1, max_length=MAX_DOCUMENTS)]
    top_n: Annotated[int, Field(ge=1)] | None = None
    return_documents: bool = False
    max_tokens_per_doc: Annotated[int, Field(ge=1)] | None = None
    truncate: bool = Field(default=True, json_schema_extra=EXTENSION)
    raw_scores: bool = Field(default=False, json_schema_extra=EXTENSION)
    instruction: Annotated[str, Field(min_length=1, max_length=4096)] | None = Field(
        default=None, json_schema_extra=EXTENSION
    )


class RankedDocument(Answer):
    """The text of a document, as it came."""

    text: str


class RankedResult(Answer):
    """The relevance of a document to the query, from 0 to 1; with `raw_scores` the model's own number."""

    index: int
    relevance_score: float
    document: NotRequired[RankedDocument]


class RerankUsage(Answer):
    """Tokens of all pairs of the query and a document."""

    prompt_tokens: int
    total_tokens: int


class RerankResponse(Answer):
    """The documents from the most relevant to the least."""

    id: str
    object: Literal["list"]
    model: str
    results: list[RankedResult]
    usage: RerankUsage


@ROUTES.post(
    "/v1/rerank",
    access=Access.INFERENCE,
    operation="rerank",
    summary="Documents by relevance",
    request=RerankRequest,
    answer=RerankResponse,
)
@ROUTES.post("/v2/rerank", access=Access.INFERENCE, request=RerankRequest, answer=RerankResponse)
async def rerank(request: web.Request) -> web.Response:
    """Rank the documents from the most relevant to the least."""
    wire = await read_as(request, RerankRequest)
    context = request.app[CONTEXT]
    texts = [document if isinstance(document, str) else document.text for document in wire.documents]
    loop = asyncio.get_running_loop()
    async with context.pool.reranking(wire.model) as model:
        pairs = await loop.run_in_executor(context.text_threads, encode_pairs, model, wire, texts)
        logits = await model.reranker.submit(pairs, max_wait_s=context.max_wait_s)
    num_tokens = sum(len(pair) for pair in pairs)
    request[RECORD].count_prompt(num_tokens)
    body: RerankResponse = {
        "id": f"rerank-{uuid.uuid4().hex}",
        "object": "list",
        "model": wire.model,
        "results": _results(wire, texts, logits),
        "usage": {"prompt_tokens": num_tokens, "total_tokens": num_tokens},
    }
    return web.json_response(body)


def encode_pairs(model: RerankModel, wire: RerankRequest, texts: Sequence[str]) -> list[TokenPair]:
    """Encode every document with the query; takes time, so call it in a thread.

    Raises:
        ContextLengthError: the query leaves no room, or a document is too long and must not be cut.
        InvalidRequestError: an instruction for a model that takes none.
    """
    limit, prompt = model.spec.max_tokens, model.spec.prompt
    if wire.instruction is not None and (prompt is None or not prompt.instruction):
        raise InvalidRequestError(
            f"Invalid 'instruction': {model.bundle.name} takes none. Please leave it out.", param="instruction"
        )
    if len(wire.query) > limit * MAX_CHARACTERS_PER_TOKEN:
        raise _query_too_long(limit, f"{len(wire.query)} characters")
    pairing = model.tokenizer.pairing(wire.query, prompt, instruction=wire.instruction)
    room = pairing.room(limit)
    if room < 1:
        raise _query_too_long(limit, f"{pairing.num_query_tokens} tokens")
    pairs = []
    for i, text in enumerate(texts):
        document = _encode_document(pairing, text, limit, f"documents[{i}]", truncate=wire.truncate)
        if wire.max_tokens_per_doc is not None:
            document = document[: wire.max_tokens_per_doc]
        pairs.append(TokenPair(*pairing.join(document)))
    return pairs


def _encode_document(pairing: Pairing, text: str, limit: int, param: str, *, truncate: bool) -> tuple[int, ...]:
    room = pairing.room(limit)
    most = room * MAX_CHARACTERS_PER_TOKEN
    if truncate:
        return pairing.encode(text[:most])[:room]
    tokens = pairing.encode(text[: most + 1])
    if len(tokens) > room or len(text) > most:
        raise ContextLengthError(
            f"This model reads {limit} tokens at once; beside the query there is room for {room}, "
            f'but the document has {len(tokens)} or more. Please shorten it, or leave out "truncate": false.',
            param=param,
        )
    return tokens


def _query_too_long(limit: int, found: str) -> ContextLengthError:
    return ContextLengthError(
        f"This model reads {limit} tokens at once, and the query alone has {found}. Please shorten the query.",
        param="query",
    )


def _results(wire: RerankRequest, texts: Sequence[str], logits: NDArray[np.float32]) -> list[RankedResult]:
    scores = logits.astype(np.float64)
    if not wire.raw_scores:
        scores = 1 / (1 + np.exp(-scores))
    order = np.argsort(-logits, kind="stable")[: wire.top_n]
    results: list[RankedResult] = []
    for i in order.tolist():
        result: RankedResult = {"index": i, "relevance_score": float(scores[i])}
        if wire.return_documents:
            result["document"] = {"text": texts[i]}
        results.append(result)
    return results

"""What we say that we speak, held against OpenAI's own document and against what is really answered."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from pydantic import BaseModel

from appliance.server.openapi import document
from appliance.server.response_schema import (
    ChatCompletion,
    ChatCompletionChunk,
    Completion,
    CompletionChunk,
    EmbeddingList,
    ErrorResponse,
    Health,
    Model,
    ModelList,
)
from tests.conftest import RunningServer
from tests.server.json_schemas import Document, covers, is_marked

CHAT, ENCODER = "smollm2-135m-instruct", "all-minilm-l6-v2"
SLICE = Path(__file__).parents[3] / "shared" / "openai" / "openapi.slice.json"
NOT_IN_THEIR_DOCUMENT = {"data[].embedding"}  # base64, which their SDKs ask for by default
TOOL: dict[str, Any] = {"type": "function", "function": {"name": "clock"}}


@pytest.fixture(scope="module")
def theirs() -> dict[str, Any]:
    if not SLICE.exists():
        pytest.skip(f"OpenAI's document is not there: {SLICE}")
    content: dict[str, Any] = json.loads(SLICE.read_text("utf-8"))
    return content


def request_schema(content: dict[str, Any], path: str) -> Any:
    return content["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]


def response_schema(content: dict[str, Any], path: str, method: str, media_type: str) -> Any:
    return content["paths"][path][method]["responses"]["200"]["content"][media_type]["schema"]


def request_differences(ours: Document, our: Any, theirs: Document, their: Any, at: str = "") -> Iterator[str]:
    """What we claim and they do not have, and what they allow and we would refuse."""
    our_shape, their_shape = ours.shape(*our), theirs.shape(*their)
    if not covers(our_shape.types, their_shape.types):
        yield f"{at}: they take {their_shape.types}, we {our_shape.types}"
    if our_shape.items and their_shape.items:
        yield from request_differences(ours, our_shape.items, theirs, their_shape.items, f"{at}[]")
    for name, schemas in our_shape.fields.items() if their_shape.fields else ():
        if is_marked(schemas):
            continue
        if name not in their_shape.fields:
            yield f"{at}.{name}: they have no such field"
        else:
            yield from request_differences(ours, schemas, theirs, their_shape.fields[name], f"{at}.{name}")


def response_differences(ours: Document, our: Any, theirs: Document, their: Any, at: str = "") -> Iterator[str]:
    """What we send and they do not, and what they always send and we might leave out."""
    our_shape, their_shape = ours.shape(*our), theirs.shape(*their)
    if not covers(their_shape.types, our_shape.types) and at not in NOT_IN_THEIR_DOCUMENT:
        yield f"{at}: we send {our_shape.types}, they {their_shape.types}"
    if missing := (their_shape.always or set()) - (our_shape.always or set()):
        yield f"{at}: they always send {missing}"
    if our_shape.items and their_shape.items:
        yield from response_differences(ours, our_shape.items, theirs, their_shape.items, f"{at}[]")
    for name, schemas in our_shape.fields.items():
        if is_marked(schemas) and name not in their_shape.fields:
            continue
        place = f"{at}.{name}".lstrip(".")
        if name not in their_shape.fields:
            yield f"{place}: they have no such field"
        else:
            yield from response_differences(ours, schemas, theirs, their_shape.fields[name], place)


@pytest.mark.parametrize("path", ["/chat/completions", "/completions", "/embeddings"])
def test_every_field_that_we_take_is_openais_and_takes_what_openai_takes(theirs: dict[str, Any], path: str) -> None:
    ours = document()
    our, their = request_schema(ours, f"/v1{path}"), request_schema(theirs, path)
    assert list(request_differences(Document(ours), [our], Document(theirs), [their])) == []


@pytest.mark.parametrize(
    ("path", "method", "media_type"),
    [
        ("/chat/completions", "post", "application/json"),
        ("/chat/completions", "post", "text/event-stream"),
        ("/completions", "post", "application/json"),
        ("/embeddings", "post", "application/json"),
        ("/models", "get", "application/json"),
        ("/models/{model}", "get", "application/json"),
    ],
)
def test_every_field_that_we_send_is_openais(theirs: dict[str, Any], path: str, method: str, media_type: str) -> None:
    ours = document()
    our = response_schema(ours, f"/v1{path}", method, media_type)
    if media_type == "text/event-stream":  # they put what an event holds where we describe the event
        our = our["properties"]["data"]["anyOf"][0]["contentSchema"]
    their = response_schema(theirs, path, method, media_type)
    assert list(response_differences(Document(ours), [our], Document(theirs), [their])) == []


def test_openais_required_fields_are_the_ones_that_we_require(theirs: dict[str, Any]) -> None:
    for path in ("/chat/completions", "/embeddings"):
        ours = Document(document()).shape(request_schema(document(), f"/v1{path}")).always
        assert ours == {"model", "messages"} if "chat" in path else {"model", "input"}


def test_our_extensions_are_marked() -> None:
    schemas = document()["components"]["schemas"]
    marked = {
        name
        for request in ("ChatRequest", "CompletionsRequest", "EmbeddingsRequest", "RerankRequest")
        for name, schema in schemas[request]["properties"].items()
        if schema.get("x-lantern-extension")
    }
    sampling = {"top_k", "min_p", "repetition_penalty", "ignore_eos", "chat_template_kwargs"}
    assert marked == sampling | {"truncate", "prompt_name", "raw_scores"}


def test_the_document_is_served(server: RunningServer) -> None:
    response = httpx2.get(f"{server.root_url}/openapi.json")
    assert response.json() == document(8)


def ask(server: RunningServer, path: str, **fields: Any) -> httpx2.Response:
    response = httpx2.post(f"{server.base_url}{path}", json=fields, timeout=60)
    assert response.status_code == 200, response.text
    return response


def events(response: httpx2.Response) -> list[str]:
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return lines[:-1]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"n": 2, "temperature": 1.0},
        {"logprobs": True, "top_logprobs": 2},
        {"response_format": {"type": "json_object"}},
        {"tools": [TOOL], "tool_choice": "required"},
        {"functions": [TOOL["function"]], "function_call": {"name": "clock"}},
    ],
)
def test_a_chat_answer_is_what_the_document_says(server: RunningServer, fields: dict[str, Any]) -> None:
    request = {"model": CHAT, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 24, **fields}
    ChatCompletion.model_validate_json(ask(server, "/chat/completions", **request).text)
    options = {"stream": True, "stream_options": {"include_usage": True}}
    for event in events(ask(server, "/chat/completions", **request, **options)):
        ChatCompletionChunk.model_validate_json(event)


def test_a_continuation_is_what_the_document_says(server: RunningServer) -> None:
    request = {"model": CHAT, "prompt": "One, two", "max_tokens": 4, "logprobs": 2}
    Completion.model_validate_json(ask(server, "/completions", **request).text)
    for event in events(ask(server, "/completions", **request, stream=True, stream_options={"include_usage": True})):
        CompletionChunk.model_validate_json(event)


def test_vectors_models_and_health_are_what_the_document_says(server: RunningServer) -> None:
    for encoding_format in ("float", "base64"):
        answer = ask(server, "/embeddings", model=ENCODER, input=["a", "b"], encoding_format=encoding_format)
        EmbeddingList.model_validate_json(answer.text)
    gets: dict[str, type[BaseModel]] = {
        "/v1/models": ModelList,
        f"/v1/models/{CHAT}": Model,
        "/health": Health,
        "/nope": ErrorResponse,
    }
    for path, model in gets.items():
        model.model_validate_json(httpx2.get(f"{server.root_url}{path}").text)

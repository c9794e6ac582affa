"""Our API document, compared with OpenAI's own document and with real answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from appliance.server.app import ROUTES
from appliance.server.http.errors import ErrorResponse
from appliance.server.openapi import document
from appliance.server.status import Health
from appliance.server.v1.chat.response import ChatCompletion, ChatCompletionChunk
from appliance.server.v1.completions.response import Completion, CompletionChunk
from appliance.server.v1.embeddings import EmbeddingList
from appliance.server.v1.models import Model, ModelList
from tests.conftest import RunningServer
from tests.server.answers import read_answer
from tests.server.json_schemas import Document, covers, is_marked
from tests.server.openai_document import openai_document

CHAT, ENCODER = "smollm2-135m-instruct", "all-minilm-l6-v2"
# Base64, which their SDKs ask for by default; and null for the first token of an echoed prompt, as their API sends it.
NOT_IN_THEIR_DOCUMENT = {
    "data[].embedding",
    "choices[].logprobs.token_logprobs[]",
    "choices[].logprobs.top_logprobs[]",
}
NOT_IN_THEIR_DOCUMENT |= {"usage", "first_id", "last_id"}  # null while there is none; theirs are, whatever it says
OF_OTHER_ITEMS = {f".input[].{name}" for name in ("call_id", "name", "arguments", "output")}  # types that we refuse
ALWAYS_SENT = {"data[].output"}  # a text of ours, the picture of a screen of theirs
TOOL: dict[str, Any] = {"type": "function", "function": {"name": "clock"}}


@pytest.fixture(scope="module")
def theirs() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(openai_document().read_text("utf-8"))
    return content


def request_schema(content: dict[str, Any], path: str) -> Any:
    return content["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]


def response_schema(content: dict[str, Any], path: str, method: str, media_type: str) -> Any:
    return content["paths"][path][method]["responses"]["200"]["content"][media_type]["schema"]


def request_differences(ours: Document, our: Any, theirs: Document, their: Any, at: str = "") -> Iterator[str]:
    """Yield what we claim and they do not have, and what they allow and we would refuse."""
    our_shape, their_shape = ours.shape(*our), theirs.shape(*their)
    if not covers(our_shape.types, their_shape.types) and at not in OF_OTHER_ITEMS:
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
    """Yield what we send and they do not, and what they always send and we might leave out."""
    our_shape, their_shape = ours.shape(*our), theirs.shape(*their)
    if not covers(their_shape.types, our_shape.types) and at not in NOT_IN_THEIR_DOCUMENT:
        yield f"{at}: we send {our_shape.types}, they {their_shape.types}"
    missing = (their_shape.always or set()) - (our_shape.always or set())
    if missing and at not in ALWAYS_SENT:
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


@pytest.mark.parametrize("path", ["/chat/completions", "/completions", "/embeddings", "/responses"])
def test_every_field_that_we_take_is_openais_and_takes_what_openai_takes(theirs: dict[str, Any], path: str) -> None:
    ours = document(ROUTES)
    our, their = request_schema(ours, f"/v1{path}"), request_schema(theirs, path)
    assert list(request_differences(Document(ours), [our], Document(theirs), [their])) == []


@pytest.mark.parametrize(
    ("path", "method", "media_type"),
    [
        ("/chat/completions", "post", "application/json"),
        ("/chat/completions", "post", "text/event-stream"),
        ("/completions", "post", "application/json"),
        ("/embeddings", "post", "application/json"),
        ("/responses", "post", "application/json"),
        ("/responses/{response_id}", "get", "application/json"),
        ("/responses/{response_id}/input_items", "get", "application/json"),
        ("/responses/input_tokens", "post", "application/json"),
        ("/models", "get", "application/json"),
        ("/models/{model}", "get", "application/json"),
    ],
)
def test_every_field_that_we_send_is_openais(theirs: dict[str, Any], path: str, method: str, media_type: str) -> None:
    ours = document(ROUTES)
    our = response_schema(ours, f"/v1{path}", method, media_type)
    if media_type == "text/event-stream":  # they put what an event holds where we describe the event
        our = our["properties"]["data"]["anyOf"][0]["contentSchema"]
    their = response_schema(theirs, path, method, media_type)
    assert list(response_differences(Document(ours), [our], Document(theirs), [their])) == []


def test_openais_required_fields_are_the_ones_that_we_require(theirs: dict[str, Any]) -> None:
    for path in ("/chat/completions", "/embeddings"):
        ours = Document(document(ROUTES)).shape(request_schema(document(ROUTES), f"/v1{path}")).always
        assert ours == {"model", "messages"} if "chat" in path else {"model", "input"}


def test_our_extensions_are_marked() -> None:
    schemas = document(ROUTES)["components"]["schemas"]
    marked = {
        name
        for request in ("ChatRequest", "CompletionsRequest", "EmbeddingsRequest", "RerankRequest", "ResponseRequest")
        for name, schema in schemas[request]["properties"].items()
        if schema.get("x-lantern-extension")
    }
    sampling = {"top_k", "min_p", "repetition_penalty", "ignore_eos", "chat_template_kwargs", "thinking_token_budget"}
    progress = {"return_progress"}
    of_responses = {"presence_penalty", "frequency_penalty", "seed", "stop", "logit_bias"}
    assert marked == sampling | progress | of_responses | {"truncate", "prompt_name", "raw_scores", "instruction"}


def test_the_document_is_served(server: RunningServer) -> None:
    response = httpx2.get(f"{server.root_url}/openapi.json")
    assert response.json() == document(ROUTES, 8)


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
    read_answer(ChatCompletion, ask(server, "/chat/completions", **request).text)
    options = {"stream": True, "stream_options": {"include_usage": True}}
    for event in events(ask(server, "/chat/completions", **request, **options)):
        read_answer(ChatCompletionChunk, event)


@pytest.mark.parametrize("echo", [False, True])
def test_a_continuation_is_what_the_document_says(server: RunningServer, *, echo: bool) -> None:
    request = {"model": CHAT, "prompt": "One, two", "max_tokens": 4, "logprobs": 2, "echo": echo}
    read_answer(Completion, ask(server, "/completions", **request).text)
    for event in events(ask(server, "/completions", **request, stream=True, stream_options={"include_usage": True})):
        read_answer(CompletionChunk, event)


def test_vectors_models_and_health_are_what_the_document_says(server: RunningServer) -> None:
    for encoding_format in ("float", "base64"):
        answer = ask(server, "/embeddings", model=ENCODER, input=["a", "b"], encoding_format=encoding_format)
        read_answer(EmbeddingList, answer.text)
    gets: dict[str, type[object]] = {
        "/v1/models": ModelList,
        f"/v1/models/{CHAT}": Model,
        "/health": Health,
        "/nope": ErrorResponse,
    }
    for path, model in gets.items():
        read_answer(model, httpx2.get(f"{server.root_url}{path}").text)

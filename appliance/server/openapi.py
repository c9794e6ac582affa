"""GET /openapi.json: this API as a document (OpenAPI 3.1), made from the models that requests are parsed with."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any

from aiohttp import web
from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, models_json_schema

from appliance import __version__
from appliance.server.chat_wire import ChatRequest
from appliance.server.completions import CompletionsRequest
from appliance.server.context import CONTEXT
from appliance.server.embeddings import EmbeddingsRequest
from appliance.server.parse import EXTENSION
from appliance.server.rerank import RerankRequest
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
    RerankResponse,
)
from appliance.server.sampling import MAX_CHOICES

ROUTES = web.RouteTableDef()

_DESCRIPTION = """The OpenAI API as this appliance speaks it. A null is an absent field, and unknown fields are ignored.
Fields marked `x-lantern-extension` are not OpenAI's."""

_REQUESTS: tuple[type[BaseModel], ...] = (ChatRequest, CompletionsRequest, EmbeddingsRequest, RerankRequest)
_RESPONSES: tuple[type[BaseModel], ...] = (
    ChatCompletion,
    ChatCompletionChunk,
    Completion,
    CompletionChunk,
    EmbeddingList,
    ErrorResponse,
    Health,
    Model,
    ModelList,
    RerankResponse,
)
_MODEL_ID = {
    "name": "model",
    "in": "path",
    "required": True,
    "description": "The id of a model; it may hold slashes and colons.",
    "schema": {"type": "string", "minLength": 1},
}


@ROUTES.get("/openapi.json")
async def openapi(request: web.Request) -> web.Response:
    """The document; the same for everybody, yet behind the key like everything but liveness."""
    return web.json_response(document(request.app[CONTEXT].max_choices))


@functools.cache
def document(max_choices: int = MAX_CHOICES) -> dict[str, Any]:
    """The whole document, for a server that makes so many answers to a request; not to be changed by the caller."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "Lantern", "version": __version__, "description": _DESCRIPTION},
        "servers": [{"url": "/"}],
        "security": [{}, {"key": []}],
        "paths": _paths(),
        "components": {
            "schemas": _schemas(max_choices),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _paths() -> dict[str, Any]:
    return {
        "/v1/chat/completions": {
            "post": _post("createChatCompletion", "The next message", ChatRequest, ChatCompletion, ChatCompletionChunk)
        },
        "/v1/completions": {
            "post": _post(
                "createCompletion", "Text continued as it stands", CompletionsRequest, Completion, CompletionChunk
            )
        },
        "/v1/embeddings": {"post": _post("createEmbedding", "Texts as unit vectors", EmbeddingsRequest, EmbeddingList)},
        "/v1/rerank": {"post": _post("rerank", "Documents by relevance", RerankRequest, RerankResponse)},
        "/v1/models": {"get": _get("listModels", "Every model and alias", ModelList)},
        "/v1/models/{model}": {"get": {**_get("retrieveModel", "One model", Model), "parameters": [_MODEL_ID]}},
        "/health": {"get": {**_get("health", "Whether requests are taken", Health), "security": [{}]}},
    }


def _post(
    operation_id: str,
    summary: str,
    request: type[BaseModel],
    response: type[BaseModel],
    event: type[BaseModel] | None = None,
) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": _ref(response)}}
    if event is not None:
        content["text/event-stream"] = {"schema": _event(event)}
    body = {"required": True, "content": {"application/json": {"schema": _ref(request)}}}
    return {
        "operationId": operation_id,
        "summary": summary,
        "requestBody": body,
        "responses": _responses({"description": summary, "content": content}),
    }


def _event(model: type[BaseModel]) -> dict[str, Any]:
    """One server-sent event, as OpenAPI 3.2 models them: its data is JSON, but for that of the last one."""
    chunk = {"contentMediaType": "application/json", "contentSchema": _ref(model)}
    data = {"type": "string", "anyOf": [chunk, {"const": "[DONE]"}]}
    return {"type": "object", "required": ["data"], "properties": {"data": data}}


def _get(operation_id: str, summary: str, response: type[BaseModel]) -> dict[str, Any]:
    content = {"application/json": {"schema": _ref(response)}}
    answer = {"description": summary, "content": content}
    return {"operationId": operation_id, "summary": summary, "responses": _responses(answer)}


def _responses(answer: Mapping[str, Any]) -> dict[str, Any]:
    error = {"description": "A refusal or a failure", "content": {"application/json": {"schema": _ref(ErrorResponse)}}}
    return {"200": answer, "default": error}


def _ref(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def _schemas(max_choices: int) -> dict[str, Any]:
    requests = _definitions(_REQUESTS, "validation")
    responses = _definitions(_RESPONSES, "serialization")
    assert not requests.keys() & responses.keys()
    for schema in requests.values():
        _allow_nulls(schema)
        _bound_choices(schema, max_choices)
    return {**requests, **responses}


def _definitions(models: Iterable[type[BaseModel]], mode: JsonSchemaMode) -> dict[str, Any]:
    _, found = models_json_schema(
        [(model, mode) for model in models], ref_template="#/components/schemas/{model}", schema_generator=_Plain
    )
    definitions: dict[str, Any] = found["$defs"]
    for schema in definitions.values():
        for field in schema.get("properties", {}).values():
            if field.get("default", 0) is None:  # says nothing: absent is absent
                del field["default"]
    return definitions


def _allow_nulls(schema: dict[str, Any]) -> None:
    """A null is as good as an absent field, so every field that may be absent may be null."""
    required = schema.get("required", ())
    for name, field in schema.get("properties", {}).items():
        if name not in required and {"type": "null"} not in field.get("anyOf", ()) and field.get("type") != "null":
            notes = {key: field.pop(key) for key in ("default", "description", *EXTENSION) if key in field}
            schema["properties"][name] = {"anyOf": [field, {"type": "null"}], **notes}


def _bound_choices(schema: dict[str, Any], most: int) -> None:
    """Settings bound them more narrowly than the wire does."""
    for name in ("n", "best_of"):
        for form in schema.get("properties", {}).get(name, {}).get("anyOf", ()):
            if form.get("maximum") == MAX_CHOICES:
                form["maximum"] = most


class _Plain(GenerateJsonSchema):
    """Without titles, which would only repeat the names."""

    def field_title_should_be_set(self, schema: object) -> bool:
        """Never."""
        return False

"""GET /openapi.json: this API as a document (OpenAPI 3.1), made from the models that requests are parsed with."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

from aiohttp import web
from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, models_json_schema

from appliance import __version__
from appliance.server.admin import operations as administration
from appliance.server.chat_wire import ChatRequest
from appliance.server.completions import CompletionsRequest
from appliance.server.context import CONTEXT
from appliance.server.embeddings import EmbeddingsRequest
from appliance.server.operations import in_path, operation
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
Fields marked `x-lantern-extension` are not OpenAI's, nor are `/v1/rerank`, `/health` and what is below `/admin`, which
needs a key for administration."""

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
    of_model = [in_path("model", "The id of a model; it may hold slashes and colons.")]
    return {
        "/v1/chat/completions": {
            "post": operation(
                *("createChatCompletion", "The next message", ChatCompletion),
                takes=ChatRequest,
                event=ChatCompletionChunk,
            )
        },
        "/v1/completions": {
            "post": operation(
                *("createCompletion", "Text continued as it stands", Completion),
                takes=CompletionsRequest,
                event=CompletionChunk,
            )
        },
        "/v1/embeddings": {
            "post": operation("createEmbedding", "Texts as unit vectors", EmbeddingList, takes=EmbeddingsRequest)
        },
        "/v1/rerank": {"post": operation("rerank", "Documents by relevance", RerankResponse, takes=RerankRequest)},
        "/v1/models": {"get": operation("listModels", "Every model and alias", ModelList)},
        "/v1/models/{model}": {"get": operation("retrieveModel", "One model", Model, parameters=of_model)},
        "/health": {"get": operation("health", "Whether requests are taken", Health, security=[{}])},
        **administration.paths(),
    }


def _schemas(max_choices: int) -> dict[str, Any]:
    requests = _definitions((*_REQUESTS, *administration.REQUESTS), "validation")
    responses = _definitions((*_RESPONSES, *administration.ANSWERS), "serialization")
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

"""GET /openapi.json: this API as a document (OpenAPI 3.1), made from the declarations of its routes.

Requests are described by the models that parse them, answers by the TypedDicts that handlers build.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from aiohttp import web
from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode

from appliance import __version__
from appliance.server.context import CONTEXT
from appliance.server.http.errors import ErrorResponse
from appliance.server.http.routing import JSON_TYPE, Access, Parameter, Route, Routes, declared
from appliance.server.http.wire import EXTENSION
from appliance.server.v1.sampling import MAX_CHOICES

ROUTES = Routes()

Schema = dict[str, Any]

_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
_DESCRIPTION = """The OpenAI API as this appliance speaks it. A null is an absent field, and unknown fields are ignored.
Fields marked `x-lantern-extension` are not OpenAI's, nor are `/v1/rerank`, `/health` and what is below `/admin`, which
needs a key for administration."""
_SECURITY: Mapping[Access, Sequence[Mapping[str, list[str]]]] = {
    Access.OPEN: [{}],
    Access.CLAIM: [{}],
    Access.INFERENCE: [{}, {"key": []}],
    Access.ADMINISTRATION: [{"key": []}],
}


@ROUTES.get("/openapi.json", access=Access.INFERENCE)
async def openapi(request: web.Request) -> web.Response:
    """Return the document; it is the same for every caller, yet behind the key like everything but liveness."""
    return web.json_response(document(declared(request.app), request.app[CONTEXT].max_choices))


@functools.cache
def document(routes: tuple[Route, ...], max_choices: int = MAX_CHOICES) -> dict[str, Any]:
    """Return the whole document, for a server that makes up to `max_choices` choices; the caller must not change it."""
    documented = [route for route in routes if route.operation is not None]
    return {
        "openapi": "3.1.0",
        "info": {"title": "Lantern", "version": __version__, "description": _DESCRIPTION},
        "servers": [{"url": "/"}],
        "security": _SECURITY[Access.INFERENCE],
        "paths": _paths(documented),
        "components": {
            "schemas": _schemas(documented, max_choices),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _paths(routes: Sequence[Route]) -> dict[str, Any]:
    paths: dict[str, dict[str, Schema]] = {route.template: {} for route in routes}
    for route in sorted(routes, key=lambda route: _METHODS.index(route.method)):
        paths[route.template][route.method.lower()] = _operation(route)
    return paths


def _operation(route: Route) -> Schema:
    told: Schema = {"operationId": route.operation, "summary": route.summary}
    if route.parameters:
        told["parameters"] = [_parameter(parameter) for parameter in route.parameters]
    if route.request is not None:
        told["requestBody"] = {"required": True, "content": {JSON_TYPE: {"schema": _ref(route.request)}}}
    elif route.body_type != JSON_TYPE:
        told["requestBody"] = {"required": True, "content": {route.body_type: {}}}
    answer = _response(route.summary, route.answer, route.event)
    told["responses"] = {str(int(status)): answer for status in route.statuses}
    told["responses"]["default"] = _response("A refusal or a failure", ErrorResponse)
    if route.access is not Access.INFERENCE:  # which the document states for all operations
        told["security"] = _SECURITY[route.access]
    return told


def _parameter(parameter: Parameter) -> Schema:
    schema = {"pattern": parameter.pattern} if parameter.pattern is not None else {"minLength": 1}
    return {
        "name": parameter.name,
        "in": parameter.place,
        "required": parameter.is_required,
        "description": parameter.description,
        "schema": {"type": "string", **schema},
    }


def _response(description: str, answer: type[object] | None, event: type[object] | None = None) -> Schema:
    content: Schema = {JSON_TYPE: {"schema": _ref(answer)}} if answer is not None else {}
    if event is not None:
        content["text/event-stream"] = {"schema": _event(event)}
    return {"description": description, "content": content}


def _event(event: type[object]) -> Schema:
    """Describe one server-sent event as OpenAPI 3.2 does: its data is JSON, but for that of the last one."""
    chunk = {"contentMediaType": JSON_TYPE, "contentSchema": _ref(event)}
    data = {"type": "string", "anyOf": [chunk, {"const": "[DONE]"}]}
    return {"type": "object", "required": ["data"], "properties": {"data": data}}


def _ref(kind: type[object]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{kind.__name__}"}


def _schemas(routes: Sequence[Route], max_choices: int) -> dict[str, Schema]:
    answers = [kind for route in routes for kind in (route.answer, route.event)]
    requests = _definitions((route.request for route in routes), "validation")
    responses = _definitions([*answers, ErrorResponse], "serialization")
    assert not requests.keys() & responses.keys()
    for schema in requests.values():
        _allow_nulls(schema)
        _bound_choices(schema, max_choices)
    return {**requests, **responses}


def _definitions(kinds: Iterable[type[object] | None], mode: JsonSchemaMode) -> dict[str, Schema]:
    found = dict.fromkeys(kind for kind in kinds if kind is not None)
    _, schema = TypeAdapter.json_schemas(
        [(kind.__name__, mode, TypeAdapter(kind)) for kind in found],
        ref_template="#/components/schemas/{model}",
        schema_generator=_Plain,
    )
    definitions: dict[str, Schema] = schema["$defs"]
    for definition in definitions.values():
        for field in definition.get("properties", {}).values():
            if field.get("default", 0) is None:  # says nothing: absent is absent
                del field["default"]
    return definitions


def _allow_nulls(schema: Schema) -> None:
    """Let every optional field be null: a null is as good as an absent field."""
    required = schema.get("required", ())
    for name, field in schema.get("properties", {}).items():
        if name not in required and {"type": "null"} not in field.get("anyOf", ()) and field.get("type") != "null":
            notes = {key: field.pop(key) for key in ("default", "description", *EXTENSION) if key in field}
            schema["properties"][name] = {"anyOf": [field, {"type": "null"}], **notes}


def _bound_choices(schema: Schema, most: int) -> None:
    """Apply the bound of the settings, which is narrower than that of the wire."""
    for name in ("n", "best_of"):
        for form in schema.get("properties", {}).get(name, {}).get("anyOf", ()):
            if form.get("maximum") == MAX_CHOICES:
                form["maximum"] = most


class _Plain(GenerateJsonSchema):
    """A schema without titles, which would only repeat the names."""

    def field_title_should_be_set(self, schema: object) -> bool:
        """Leave titles out."""
        return False

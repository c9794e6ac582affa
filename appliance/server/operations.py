"""One operation of /openapi.json: what it takes, what it answers, and OpenAI's error object for everything else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel

from appliance.server.response_schema import ErrorResponse

JSON = "application/json"

Operation = dict[str, Any]


def operation(
    operation_id: str,
    summary: str,
    answer: type[BaseModel] | Mapping[int, type[BaseModel]],
    *,
    takes: type[BaseModel] | str | None = None,
    parameters: Sequence[Mapping[str, Any]] = (),
    event: type[BaseModel] | None = None,
    security: Sequence[Mapping[str, Any]] | None = None,
) -> Operation:
    """`answer` by its status, or that of a 200; `takes` is the model of a JSON body, or a type of bytes.

    `event` is one event of the answer as a stream. Without `security` what the document says of all operations holds.
    """
    answers = answer if isinstance(answer, Mapping) else {HTTPStatus.OK: answer}
    responses = {str(int(status)): _response(summary, model, event) for status, model in answers.items()}
    told: Operation = {"operationId": operation_id, "summary": summary}
    if parameters:
        told["parameters"] = list(parameters)
    if takes is not None:
        told["requestBody"] = {"required": True, "content": _body(takes)}
    told["responses"] = responses | {"default": _response("A refusal or a failure", ErrorResponse)}
    if security is not None:
        told["security"] = list(security)
    return told


def in_path(name: str, description: str) -> dict[str, Any]:
    """A part of the path."""
    schema = {"type": "string", "minLength": 1}
    return {"name": name, "in": "path", "required": True, "description": description, "schema": schema}


def in_header(name: str, description: str, pattern: str, *, required: bool) -> dict[str, Any]:
    """A header."""
    schema = {"type": "string", "pattern": pattern}
    return {"name": name, "in": "header", "required": required, "description": description, "schema": schema}


def _response(description: str, model: type[BaseModel], event: type[BaseModel] | None = None) -> dict[str, Any]:
    content: dict[str, Any] = {JSON: {"schema": _ref(model)}}
    if event is not None:
        content["text/event-stream"] = {"schema": _event(event)}
    return {"description": description, "content": content}


def _body(takes: type[BaseModel] | str) -> dict[str, Any]:
    return {takes: {}} if isinstance(takes, str) else {JSON: {"schema": _ref(takes)}}


def _event(model: type[BaseModel]) -> dict[str, Any]:
    """One server-sent event, as OpenAPI 3.2 models them: its data is JSON, but for that of the last one."""
    chunk = {"contentMediaType": JSON, "contentSchema": _ref(model)}
    data = {"type": "string", "anyOf": [chunk, {"const": "[DONE]"}]}
    return {"type": "object", "required": ["data"], "properties": {"data": data}}


def _ref(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{model.__name__}"}

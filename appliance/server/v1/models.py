"""GET /v1/models and GET /v1/models/{model}."""

from __future__ import annotations

from typing import Annotated, Literal

from aiohttp import web
from pydantic import Field

from appliance.models import ListedModel
from appliance.server.context import CONTEXT, ServerContext
from appliance.server.http.routing import Access, Routes, in_path
from appliance.server.http.wire import EXTENSION, Answer

ROUTES = Routes()

Output = Literal["text", "embeddings", "rerank"]
_OUTPUTS: dict[str, Output] = {"decoder": "text", "encoder": "embeddings", "reranker": "rerank"}

_ID = in_path("model", "The id of a model; it may hold slashes and colons.")


class Modalities(Answer):
    """The kinds of content that a model takes and gives, as OpenRouter names them."""

    input_modalities: list[Literal["text"]]
    output_modalities: list[Output]


class Model(Answer):
    """A model, or another name for one."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    kind: Annotated[Literal["decoder", "encoder", "reranker"], Field(json_schema_extra=EXTENSION)]
    context_length: Annotated[int, Field(json_schema_extra=EXTENSION)]
    max_model_len: Annotated[int, Field(json_schema_extra=EXTENSION)]
    architecture: Annotated[Modalities, Field(json_schema_extra=EXTENSION)]


class ModelList(Answer):
    """Every id that a request may name."""

    object: Literal["list"]
    data: list[Model]


@ROUTES.get(
    "/v1/models",
    access=Access.INFERENCE,
    operation="listModels",
    summary="Every model and alias",
    answer=ModelList,
)
async def list_models(request: web.Request) -> web.Response:
    """List every model and alias."""
    context = request.app[CONTEXT]
    data = [_describe(model, context) for model in context.pool.listed()]
    body: ModelList = {"object": "list", "data": data}
    return web.json_response(body)


@ROUTES.get(
    "/v1/models/{model:.+}",
    access=Access.INFERENCE,
    operation="retrieveModel",
    summary="One model",
    answer=Model,
    parameters=(_ID,),
)
async def retrieve_model(request: web.Request) -> web.Response:
    """Return one model; ids may hold slashes and colons, escaped or not."""
    context = request.app[CONTEXT]
    return web.json_response(_describe(context.pool.find(request.match_info["model"]), context))


def _describe(model: ListedModel, context: ServerContext) -> Model:
    kind = model.bundle.manifest.model.kind
    length = context.pool.context_length(model.bundle)
    return {
        "id": model.id,
        "object": "model",
        "created": context.started_s,
        "owned_by": "lantern",
        "kind": kind,
        "context_length": length,
        "max_model_len": length,
        "architecture": {"input_modalities": ["text"], "output_modalities": [_OUTPUTS[kind]]},
    }

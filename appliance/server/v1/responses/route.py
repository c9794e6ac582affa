"""POST /v1/responses, plain and streamed, and the count of a prompt's tokens."""

from __future__ import annotations

from http import HTTPStatus

from aiohttp import web

from appliance.errors import InvalidRequestError
from appliance.server.context import CONTEXT
from appliance.server.http.body import read_as
from appliance.server.http.errors import error_body
from appliance.server.http.record import KEY_ID
from appliance.server.http.routing import Access, Routes
from appliance.server.v1.generation import Origin
from appliance.server.v1.responses.background import answer_in_background
from appliance.server.v1.responses.response import InputTokens, Response, ResponseEvent
from appliance.server.v1.responses.start import plan, started
from appliance.server.v1.responses.stream import stream_response
from appliance.server.v1.responses.wire import InputTokensRequest, PromptFields, ResponseRequest

ROUTES = Routes()

_UNSUPPORTED = ("prompt", "context_management", "moderation")


class WebSocketRefusedError(InvalidRequestError):
    """A client that would speak over a WebSocket; it goes on over HTTP."""

    status = 426
    code = "websocket_not_supported"


@ROUTES.post(
    "/v1/responses",
    access=Access.INFERENCE,
    operation="createResponse",
    summary="The next items of a conversation",
    request=ResponseRequest,
    answer=Response,
    event=ResponseEvent,
)
async def create_response(request: web.Request) -> web.StreamResponse:
    """Generate the next items; all refusals come before the first byte of an answer."""
    wire = await read_as(request, ResponseRequest)
    _refuse_unsupported(wire)
    if wire.background:
        return await answer_in_background(request, wire)
    async with started(request.app[CONTEXT], Origin.of(request), wire) as start:
        run = start.run
        if wire.stream:
            obfuscates = wire.stream_options is not None and wire.stream_options.include_obfuscation
            return await stream_response(request, run, start.headers, obfuscates=obfuscates)
        async for _, piece in run.generation.pieces():
            for _event in run.read(piece):
                pass
        response = run.end()
    await run.keep(response)
    return web.json_response(response, headers=start.headers)


@ROUTES.post(
    "/v1/responses/input_tokens",
    access=Access.INFERENCE,
    operation="countInputTokens",
    summary="The number of tokens of a prompt",
    request=InputTokensRequest,
    answer=InputTokens,
)
async def count_input_tokens(request: web.Request) -> web.Response:
    """Render a prompt and count its tokens."""
    wire = await read_as(request, InputTokensRequest)
    _refuse_unsupported(wire)
    async with request.app[CONTEXT].pool.chat(wire.model) as model:
        planned = await plan(request.app[CONTEXT], request.get(KEY_ID, ""), model, wire)
    body: InputTokens = {"object": "response.input_tokens", "input_tokens": len(planned.plan.prompt)}
    return web.json_response(body)


@ROUTES.get("/v1/responses", access=Access.INFERENCE)
async def refuse_websocket(request: web.Request) -> web.Response:
    """Tell clients that ask for a WebSocket to use HTTP: Codex tries again after 404 and 405, but not after 426.

    Raises:
        web.HTTPMethodNotAllowed: the request is a plain GET.
    """
    if "websocket" not in request.headers.get("Upgrade", "").lower():
        raise web.HTTPMethodNotAllowed(request.method, ["POST"])
    err = WebSocketRefusedError("This server answers /v1/responses over HTTP only, not over a WebSocket; send a POST.")
    headers = {"Upgrade": "HTTP/1.1", "Connection": "close"}
    return web.json_response(error_body(err), status=HTTPStatus.UPGRADE_REQUIRED, headers=headers)


def _refuse_unsupported(wire: PromptFields) -> None:
    """Refuse what this server would otherwise have to ignore."""
    values = {name: getattr(wire, name, None) for name in _UNSUPPORTED}
    refused = [name for name, value in values.items() if value is not None and value is not False]
    if isinstance(wire, ResponseRequest) and (wire.prompt_cache_options or {}).get("prewarm"):
        refused.append("prompt_cache_options.prewarm")
    for name in refused:
        raise InvalidRequestError(
            f"Unsupported parameter: '{name}' is not supported by this server; leave it out.",
            param=name,
            code="unsupported_parameter",
        )

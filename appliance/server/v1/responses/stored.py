"""Stored responses, and those that are made in the background: GET, DELETE, their input items, and cancel."""

from __future__ import annotations

import json
from dataclasses import dataclass

from aiohttp import web

from appliance.errors import InvalidRequestError
from appliance.server.context import CONTEXT
from appliance.server.http.record import KEY_ID
from appliance.server.http.routing import Access, Routes, in_path, in_query
from appliance.server.state.background import Running
from appliance.server.state.events import EventLog
from appliance.server.state.responses import StoredResponse
from appliance.server.v1.responses.background import follow
from appliance.server.v1.responses.pages import PAGE, item_page
from appliance.server.v1.responses.response import DeletedResponse, InputItemList, Response, ResponseEvent

ROUTES = Routes()

# POST /v1/responses/input_tokens is no response, and its 405 tells of no other method.
_PATH = "/v1/responses/{response_id:(?!input_tokens$)[^/]+}"
_ID = in_path("response_id", "The id of a response that was stored.")
_STREAM = in_query("stream", "True for the events, of a response that is made in the background.", "^(true|false)$")
_AFTER = in_query("starting_after", "The sequence_number of the last event that was seen.", "^[0-9]{1,9}$")
_OBFUSCATION = in_query("include_obfuscation", "True for events with random padding.", "^(true|false)$")
_MAX_DIGITS = 9


class ResponseNotFoundError(InvalidRequestError):
    """No such response, or one of another key."""

    status = 404
    code = "not_found"


@ROUTES.get(
    _PATH,
    access=Access.INFERENCE,
    operation="getResponse",
    summary="A stored response",
    answer=Response,
    event=ResponseEvent,
    parameters=(_ID, _STREAM, _AFTER, _OBFUSCATION),
)
async def get_response(request: web.Request) -> web.StreamResponse:
    """Return a response as it was answered, or as it is now; one of the background also as the stream that it was.

    Raises:
        InvalidRequestError: a stream of a response whose events are not kept.
    """
    found = _find(request)
    if request.query.get("stream") != "true":
        return web.json_response(found.response)
    if not found.response["background"]:
        raise InvalidRequestError(
            "Unsupported parameter: 'stream' is only for responses that were made in the background.",
            param="stream",
            code="unsupported_parameter",
        )
    if found.running is None:
        raise _invalid("stream", "the events of this response are no longer kept; get it without 'stream'")
    log = found.running.log
    obfuscates = request.query.get("include_obfuscation") == "true"
    return await follow(request, log, _next_event(request, log), obfuscates=obfuscates)


@ROUTES.delete(
    _PATH,
    access=Access.INFERENCE,
    operation="deleteResponse",
    summary="Forget a stored response",
    answer=DeletedResponse,
    parameters=(_ID,),
)
async def delete_response(request: web.Request) -> web.Response:
    """Forget a response at once; what chains through it can no longer be continued."""
    response_id = _find(request).response["id"]
    context, key_id = request.app[CONTEXT], request.get(KEY_ID, "")
    await context.background.delete(key_id, response_id)
    context.responses.delete(key_id, response_id)
    await context.responses.commit()
    body: DeletedResponse = {"id": response_id, "object": "response", "deleted": True}
    return web.json_response(body)


@ROUTES.get(
    "/v1/responses/{response_id}/input_items",
    access=Access.INFERENCE,
    operation="listInputItems",
    summary="The items that a response was made from",
    answer=InputItemList,
    parameters=(_ID, *PAGE),
)
async def list_input_items(request: web.Request) -> web.Response:
    """List the items of the chain and of the request, the last ones first unless told otherwise.

    Raises:
        InvalidRequestError: a parameter of the page is not valid, or an earlier response is no longer there.
    """
    entry = _find(request).entry
    if entry is None:
        raise _not_found(request)
    ids, items = _input_of(request, entry)
    return web.json_response(item_page(request, ids, items))


@ROUTES.post(
    "/v1/responses/{response_id}/cancel",
    access=Access.INFERENCE,
    operation="cancelResponse",
    summary="The end of a response that is made in the background",
    answer=Response,
    parameters=(_ID,),
)
async def cancel_response(request: web.Request) -> web.Response:
    """End a response, which frees its slot; one that has ended is returned as it is.

    Raises:
        InvalidRequestError: the response ends with its connection.
    """
    found = _find(request)
    if not found.response["background"]:
        raise InvalidRequestError(
            f"The response '{found.response['id']}' was not made in the background, so it cannot be cancelled.",
            param="response_id",
            code="invalid_value",
        )
    if found.running is not None and found.running.ended_s is None:
        await request.app[CONTEXT].background.cancel(found.running)
        found = _find(request)
    return web.json_response(found.response)


@dataclass(frozen=True, slots=True)
class _Found:
    """A response as it is now, with what is stored of it and what is known of its events."""

    response: Response
    entry: StoredResponse | None
    running: Running | None


def _find(request: web.Request) -> _Found:
    context, key_id = request.app[CONTEXT], request.get(KEY_ID, "")
    response_id = request.match_info["response_id"]
    running = context.background.find(key_id, response_id)
    entry = context.responses.get(key_id, response_id)
    if running is not None and (snapshot := running.snapshot()) is not None:
        return _Found(json.loads(snapshot), entry, running)
    if entry is None:
        raise _not_found(request)
    return _Found(_stored(entry), entry, running)


def _not_found(request: web.Request) -> ResponseNotFoundError:
    response_id = request.match_info["response_id"]
    return ResponseNotFoundError(f"Response with id '{response_id[:80]}' not found.", param="response_id")


def _stored(entry: StoredResponse) -> Response:
    response: Response = json.loads(entry.response)
    response["output"] = [json.loads(item) for item in entry.output]
    return response


def _next_event(request: web.Request, log: EventLog) -> int:
    """Return the number of the first event that the client has not seen."""
    text = request.query.get("starting_after")
    if text is None:
        start = 0
    elif not (text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS) or int(text) >= log.end:
        raise _invalid("starting_after", "it must be the sequence_number of an event of this response")
    else:
        start = int(text) + 1
    if start < log.first:
        raise _invalid(
            "starting_after", f"the events before {log.first} are no longer kept; get the response without 'stream'"
        )
    return start


def _input_of(request: web.Request, entry: StoredResponse) -> tuple[list[str], list[bytes]]:
    """Return the ids and the JSON of all items that an answer was made from, the oldest ones first."""
    earlier: list[StoredResponse] = []
    if entry.previous_id is not None:
        chain = request.app[CONTEXT].responses.chain(request.get(KEY_ID, ""), entry.previous_id)
        if chain is None:
            raise InvalidRequestError(
                f"Previous response with id '{entry.previous_id}' not found.",
                param="previous_response_id",
                code="previous_response_not_found",
            )
        earlier = chain
    ids = [item_id for response in earlier for item_id in response.item_ids]
    items = [item for response in earlier for item in response.items]
    return ids + list(entry.item_ids[: len(entry.input)]), items + list(entry.input)


def _invalid(param: str, reason: str) -> InvalidRequestError:
    return InvalidRequestError(f"Invalid '{param}': {reason}.", param=param, code="invalid_value")

"""Conversations: created, described and deleted; their items listed, added and removed. Responses add to them too."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from functools import partial
from typing import Annotated, Literal

from aiohttp import web
from pydantic import Field, RootModel, field_validator

from appliance.errors import InvalidRequestError, StorageFullError
from appliance.server.context import CONTEXT
from appliance.server.http.body import read_as
from appliance.server.http.record import KEY_ID
from appliance.server.http.routing import Access, Routes, in_path
from appliance.server.http.wire import Answer, Wire
from appliance.server.state.responses import StoredResponse
from appliance.server.v1.responses.input_wire import InputItem
from appliance.server.v1.responses.item_answers import Item
from appliance.server.v1.responses.items import find_items, read_input
from appliance.server.v1.responses.kept import (
    appended,
    find_conversation,
    new_conversation,
    new_conversation_id,
    without_items,
)
from appliance.server.v1.responses.pages import PAGE, item_page
from appliance.server.v1.responses.plan import to_json
from appliance.server.v1.responses.response import InputItemList
from appliance.server.v1.responses.wire import METADATA_SCHEMA, checked_metadata

ROUTES = Routes()

_MAX_ITEMS = 20
_ID = in_path("conversation_id", "The id of a conversation.")
_ITEM_ID = in_path("item_id", "The id of an item of the conversation.")


class ConversationUpdate(Wire):
    """The new metadata of a conversation."""

    metadata: dict[str, str] = Field(json_schema_extra=METADATA_SCHEMA)

    _is_small = field_validator("metadata")(checked_metadata)


class ConversationRequest(Wire):
    """A new conversation, with or without items."""

    metadata: dict[str, str] | None = Field(default=None, json_schema_extra=METADATA_SCHEMA)
    items: Annotated[list[InputItem], Field(max_length=_MAX_ITEMS)] | None = None

    _is_small = field_validator("metadata")(checked_metadata)


class ItemsRequest(Wire):
    """More items."""

    items: Annotated[list[InputItem], Field(min_length=1, max_length=_MAX_ITEMS)]


class ConversationObject(Answer):
    """A conversation without its items."""

    id: str
    object: Literal["conversation"]
    created_at: int
    metadata: dict[str, str]


class ConversationItem(RootModel[Item]):
    """An item of a conversation."""


class DeletedConversation(Answer):
    """A conversation that is no longer there."""

    id: str
    object: Literal["conversation.deleted"]
    deleted: Literal[True]


@ROUTES.post(
    "/v1/conversations",
    access=Access.INFERENCE,
    operation="createConversation",
    summary="A new conversation",
    request=ConversationRequest,
    answer=ConversationObject,
)
async def create_conversation(request: web.Request) -> web.Response:
    """Create a conversation; it is kept as responses are.

    Raises:
        InvalidRequestError: an item is not valid, or nothing is stored here.
    """
    wire = await read_as(request, ConversationRequest)
    if not request.app[CONTEXT].responses.is_on:
        raise InvalidRequestError("Conversations cannot be stored: storing is switched off here (responses.store).")
    about: ConversationObject = {
        "id": new_conversation_id(),
        "object": "conversation",
        "created_at": int(time.time()),
        "metadata": wire.metadata or {},
    }
    item_ids, items = _read(request, wire.items or [])
    await _keep(request, appended(new_conversation(to_json(about), about["id"]), items, item_ids))
    return web.json_response(about)


@ROUTES.get(
    "/v1/conversations/{conversation_id}",
    access=Access.INFERENCE,
    operation="getConversation",
    summary="A conversation",
    answer=ConversationObject,
    parameters=(_ID,),
)
async def get_conversation(request: web.Request) -> web.Response:
    """Return a conversation without its items."""
    return web.json_response(_about(_find(request)))


@ROUTES.post(
    "/v1/conversations/{conversation_id}",
    access=Access.INFERENCE,
    operation="updateConversation",
    summary="Other metadata of a conversation",
    request=ConversationUpdate,
    answer=ConversationObject,
    parameters=(_ID,),
)
async def update_conversation(request: web.Request) -> web.Response:
    """Replace the metadata."""
    wire = await read_as(request, ConversationUpdate)
    conversation = _find(request)
    about: ConversationObject = {**_about(conversation), "metadata": wire.metadata}
    await _keep(request, replace(conversation, response=to_json(about)))
    return web.json_response(about)


@ROUTES.delete(
    "/v1/conversations/{conversation_id}",
    access=Access.INFERENCE,
    operation="deleteConversation",
    summary="Forget a conversation",
    answer=DeletedConversation,
    parameters=(_ID,),
)
async def delete_conversation(request: web.Request) -> web.Response:
    """Forget a conversation with its items at once; responses that were made from it stay."""
    conversation_id = _find(request).id
    store = request.app[CONTEXT].responses
    store.delete(request.get(KEY_ID, ""), conversation_id)
    await store.commit()
    body: DeletedConversation = {"id": conversation_id, "object": "conversation.deleted", "deleted": True}
    return web.json_response(body)


@ROUTES.get(
    "/v1/conversations/{conversation_id}/items",
    access=Access.INFERENCE,
    operation="listConversationItems",
    summary="The items of a conversation",
    answer=InputItemList,
    parameters=(_ID, *PAGE),
)
async def list_items(request: web.Request) -> web.Response:
    """List the items, the last ones first unless told otherwise."""
    conversation = _find(request)
    return web.json_response(item_page(request, conversation.item_ids, conversation.items))


@ROUTES.post(
    "/v1/conversations/{conversation_id}/items",
    access=Access.INFERENCE,
    operation="createConversationItems",
    summary="More items in a conversation",
    request=ItemsRequest,
    answer=InputItemList,
    parameters=(_ID,),
)
async def create_items(request: web.Request) -> web.Response:
    """Add items at the end; return those that were added."""
    wire = await read_as(request, ItemsRequest)
    conversation = _find(request)
    item_ids, items = _read(request, wire.items)
    for item_id in item_ids:
        if item_id in conversation.item_ids:
            raise InvalidRequestError(
                f"Invalid 'items': the conversation has an item with id '{item_id}' already.",
                param="items",
                code="invalid_value",
            )
    await _keep(request, appended(conversation, items, item_ids))
    added: list[Item] = [json.loads(item) for item in items]
    body: InputItemList = {
        "object": "list",
        "data": added,
        "first_id": item_ids[0],
        "last_id": item_ids[-1],
        "has_more": False,
    }
    return web.json_response(body)


@ROUTES.get(
    "/v1/conversations/{conversation_id}/items/{item_id}",
    access=Access.INFERENCE,
    operation="getConversationItem",
    summary="One item of a conversation",
    answer=ConversationItem,
    parameters=(_ID, _ITEM_ID),
)
async def get_item(request: web.Request) -> web.Response:
    """Return one item."""
    conversation, place = _find_item(request)
    return web.json_response(body=conversation.items[place])


@ROUTES.delete(
    "/v1/conversations/{conversation_id}/items/{item_id}",
    access=Access.INFERENCE,
    operation="deleteConversationItem",
    summary="A conversation without one of its items",
    answer=ConversationObject,
    parameters=(_ID, _ITEM_ID),
)
async def delete_item(request: web.Request) -> web.Response:
    """Remove one item; return the conversation."""
    conversation, place = _find_item(request)
    await _keep(request, without_items(conversation, {conversation.item_ids[place]}))
    return web.json_response(_about(conversation))


def _find(request: web.Request) -> StoredResponse:
    return find_conversation(
        request.app[CONTEXT].responses, request.get(KEY_ID, ""), request.match_info["conversation_id"]
    )


def _find_item(request: web.Request) -> tuple[StoredResponse, int]:
    conversation, item_id = _find(request), request.match_info["item_id"]
    if item_id not in conversation.item_ids:
        raise ItemMissingError(f"Item with id '{item_id[:80]}' not found in this conversation.", param="item_id")
    return conversation, conversation.item_ids.index(item_id)


class ItemMissingError(InvalidRequestError):
    """An item that the conversation does not have."""

    status = 404
    code = "not_found"


def _about(conversation: StoredResponse) -> ConversationObject:
    about: ConversationObject = json.loads(conversation.response)
    return about


def _read(request: web.Request, given: list[InputItem]) -> tuple[list[str], list[bytes]]:
    """Return the ids and the JSON of items; one that was named comes with the id that it has."""
    find = partial(request.app[CONTEXT].responses.item, request.get(KEY_ID, ""))
    found = find_items(read_input(given, "items"), find)
    items = [item if isinstance(item, bytes) else to_json(item) for item in found]
    ids = [json.loads(item)["id"] if isinstance(item, bytes) else item["id"] for item in found]
    unique = dict(zip(ids, items, strict=True))
    return list(unique), list(unique.values())


async def _keep(request: web.Request, conversation: StoredResponse) -> None:
    """Store a conversation as it is now.

    Raises:
        InvalidRequestError: it is larger than its key's share.
        StorageFullError: the disk does not take it; it is as it was.
    """
    store, key_id = request.app[CONTEXT].responses, request.get(KEY_ID, "")
    store.keep_only(request.app[CONTEXT].keys.key_ids)
    before = store.conversation(key_id, conversation.id)
    if not store.put(key_id, conversation):
        raise InvalidRequestError(
            f"The conversation would have {conversation.size_bytes} bytes, more than a key may store here "
            "(responses.max_mib); remove items, or begin another one.",
            code="conversation_too_large",
        )
    if not await store.commit():
        if before is None:
            store.delete(key_id, conversation.id)
        else:
            store.put(key_id, before)
        raise StorageFullError("The conversation cannot be stored: the device's disk is full or broken.")

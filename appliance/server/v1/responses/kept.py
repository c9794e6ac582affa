"""Conversations as the store keeps them: an entry whose body is the conversation object, and whose input its items."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from appliance.errors import InvalidRequestError
from appliance.server.state.responses import ResponseStore, StoredResponse
from appliance.server.v1.responses.items import new_id


class ConversationNotFoundError(InvalidRequestError):
    """No such conversation, or one of another key."""

    status = 404
    code = "not_found"


def find_conversation(store: ResponseStore, key_id: str, conversation_id: str) -> StoredResponse:
    """Return a conversation of this key.

    Raises:
        ConversationNotFoundError: there is none.
    """
    found = store.conversation(key_id, conversation_id)
    if found is None:
        raise ConversationNotFoundError(
            f"Conversation with id '{conversation_id[:80]}' not found.", param="conversation"
        )
    return found


def appended(conversation: StoredResponse, items: Sequence[bytes], item_ids: Sequence[str]) -> StoredResponse:
    """Return a conversation with more items; one whose id is there already is there once.

    An item that the conversation has already is one that a client has sent back.
    """
    there = set(conversation.item_ids)
    new = {item_id: item for item_id, item in zip(item_ids, items, strict=True) if item_id not in there}
    return replace(
        conversation,
        input=(*conversation.input, *new.values()),
        item_ids=(*conversation.item_ids, *new),
    )


def without_items(conversation: StoredResponse, item_ids: Collection[str]) -> StoredResponse:
    """Return a conversation without some of its items."""
    kept = [
        (item_id, item)
        for item_id, item in zip(conversation.item_ids, conversation.input, strict=True)
        if item_id not in item_ids
    ]
    return replace(conversation, input=tuple(item for _, item in kept), item_ids=tuple(item_id for item_id, _ in kept))


def new_conversation(about: bytes, conversation_id: str) -> StoredResponse:
    """Return a conversation without items."""
    return StoredResponse(conversation_id, None, about, (), (), ())


def new_conversation_id() -> str:
    """Return a random id that nobody can guess."""
    return new_id("conv")

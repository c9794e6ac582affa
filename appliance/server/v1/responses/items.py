"""Input items in the form in which they are stored and listed: every one with an id, contents as parts of text."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Sequence
from typing import assert_never

from appliance.errors import InvalidRequestError, UnsupportedContentError
from appliance.server.v1.responses.input_wire import (
    Content,
    InputCall,
    InputCallOutput,
    InputCustomCall,
    InputCustomOutput,
    InputItem,
    InputMessage,
    InputOther,
    InputPart,
    InputReasoning,
    InputReference,
    InputText,
    Result,
)
from appliance.server.v1.responses.item_answers import (
    CustomCallItem,
    CustomOutputItem,
    FunctionCallItem,
    FunctionOutputItem,
    InputMessageItem,
    Item,
    OutputMessageItem,
    ReasoningOutputItem,
)

FindItem = Callable[[str], bytes | None]
"""Returns a stored item of the caller's key as JSON."""

_OWN_ID = re.compile(r"^[A-Za-z0-9_-]{1,64}$")
_TEXT = frozenset({"input_text", "output_text", "text"})


class ItemNotFoundError(InvalidRequestError):
    """A reference to an item that is not stored, or belongs to another key."""

    status = 404


def new_id(prefix: str) -> str:
    """Return a random id that nobody can guess."""
    return f"{prefix}_{uuid.uuid4().hex}"


def read_input(given: str | Sequence[InputItem] | None, param: str = "input") -> list[Item | InputReference]:
    """Return the request's items; references stay, since stored items belong to the event loop.

    Raises:
        InvalidRequestError: an item, or a part of one, that this server does not have.
    """
    if isinstance(given, str):
        return [_user_message(given)]
    return [_read(item, f"{param}[{i}]") for i, item in enumerate(given or ())]


def find_items(items: Sequence[Item | InputReference], find: FindItem) -> list[Item | bytes]:
    """Replace references by the stored items, as JSON.

    Raises:
        ItemNotFoundError: there is no such item.
    """
    return [_found(item, find) if isinstance(item, InputReference) else item for item in items]


def _found(reference: InputReference, find: FindItem) -> bytes:
    stored = find(reference.id)
    if stored is None:
        raise ItemNotFoundError(
            f"Item with id '{reference.id[:80]}' not found. Items are not persisted when `store` is set to false. Try "
            "again with `store` set to true, or remove this item from your input.",
            param="input",
        )
    return stored


def _read(item: InputItem, param: str) -> Item | InputReference:
    match item:
        case InputMessage():
            return _message(item, param)
        case InputCall():
            return _call(item, param)
        case InputCallOutput():
            return _call_output(item, param)
        case InputCustomCall():
            return _custom_call(item)
        case InputCustomOutput():
            return _custom_output(item, param)
        case InputReasoning():
            return _reasoning(item, param)
        case InputReference():
            return item
        case InputOther(type=kind):
            raise InvalidRequestError(
                f"Invalid '{param}.type': this server has no items of type {kind[:40]!r}.",
                param=f"{param}.type",
                code="unsupported_value",
            )
        case _:
            assert_never(item)


def _user_message(text: str) -> InputMessageItem:
    content: InputMessageItem = {
        "id": new_id("msg"),
        "type": "message",
        "role": "user",
        "status": "completed",
        "content": [{"type": "input_text", "text": text}],
    }
    return content


def _message(item: InputMessage, param: str) -> InputMessageItem | OutputMessageItem:
    texts = _texts(item.content, f"{param}.content")
    item_id = _id(item.id, "msg")
    if item.role == "assistant":
        return {
            "id": item_id,
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": t, "annotations": [], "logprobs": []} for t in texts],
        }
    return {
        "id": item_id,
        "type": "message",
        "role": item.role,
        "status": "completed",
        "content": [{"type": "input_text", "text": text} for text in texts],
    }


def _call(item: InputCall, param: str) -> FunctionCallItem:
    arguments = item.arguments if item.arguments.strip() else "{}"
    try:
        json.loads(arguments)
    except (ValueError, RecursionError) as err:
        if item.status != "incomplete":  # a call that the model could not end; what it was to be is lost
            raise InvalidRequestError(
                f"Invalid '{param}.arguments': it must be JSON text.", param=f"{param}.arguments", code="invalid_value"
            ) from err
    return {
        "id": _id(item.id, "fc"),
        "type": "function_call",
        "call_id": item.call_id,
        "name": item.name,
        "arguments": arguments,
        "status": "incomplete" if item.status == "incomplete" else "completed",
    }


def _call_output(item: InputCallOutput, param: str) -> FunctionOutputItem:
    return {
        "id": _id(item.id, "fco"),
        "type": "function_call_output",
        "call_id": item.call_id,
        "output": "".join(_texts(item.output, f"{param}.output")),
        "status": "completed",
    }


def _custom_call(item: InputCustomCall) -> CustomCallItem:
    return {
        "id": _id(item.id, "ctc"),
        "type": "custom_tool_call",
        "call_id": item.call_id,
        "name": item.name,
        "input": item.input,
        "status": "incomplete" if item.status == "incomplete" else "completed",
    }


def _custom_output(item: InputCustomOutput, param: str) -> CustomOutputItem:
    return {
        "id": _id(item.id, "ctco"),
        "type": "custom_tool_call_output",
        "call_id": item.call_id,
        "output": "".join(_texts(item.output, f"{param}.output")),
        "status": "completed",
    }


def _reasoning(item: InputReasoning, param: str) -> ReasoningOutputItem:
    """Keep all forms of the text: the conversation takes the first one that can be read."""
    result: ReasoningOutputItem = {
        "id": _id(item.id, "rs"),
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": part.text or ""} for part in item.summary or ()],
        "status": "completed",
    }
    if item.content:
        result["content"] = [{"type": "reasoning_text", "text": part.text or ""} for part in item.content]
    if item.encrypted_content is not None:
        result["encrypted_content"] = item.encrypted_content
    return result


def _texts(content: Content | Result, param: str) -> list[str]:
    if isinstance(content, str):
        return [content]
    return [_text(part, f"{param}[{j}]") for j, part in enumerate(content)]


def _text(part: InputText, param: str) -> str:
    if isinstance(part, InputPart) and part.type == "refusal":
        return part.refusal or ""
    if part.type not in _TEXT:
        raise UnsupportedContentError(
            f"Invalid '{param}': this model reads text only, not parts of type '{part.type[:40]}'.", param=param
        )
    if part.text is None:
        raise InvalidRequestError(
            f"Missing required parameter: '{param}.text'.", param=f"{param}.text", code="missing_required_parameter"
        )
    return part.text


def _id(given: str | None, prefix: str) -> str:
    """Return the client's id if it can be one of ours, else a new one."""
    return given if given is not None and _OWN_ID.match(given) else new_id(prefix)

"""Pages of items: `limit`, `order` and `after`, the same for responses and conversations."""

from __future__ import annotations

import json
from collections.abc import Sequence

from aiohttp import web

from appliance.errors import InvalidRequestError
from appliance.server.http.routing import in_query
from appliance.server.v1.responses.item_answers import Item
from appliance.server.v1.responses.response import InputItemList

PAGE = (
    in_query("limit", "The number of items, 1 to 100; 20 by default.", "^[0-9]{1,3}$"),
    in_query("order", "The last items first (desc, the default) or the first ones (asc).", "^(asc|desc)$"),
    in_query("after", "The id of the item before the page."),
)
_DEFAULT_LIMIT, _MAX_LIMIT = 20, 100


def item_page(request: web.Request, ids: Sequence[str], items: Sequence[bytes]) -> InputItemList:
    """Return the page that a request asks for; the items are given in their order, the oldest one first.

    Raises:
        InvalidRequestError: a parameter of the page is not valid.
    """
    limit, order, after = _limit(request), _order(request), request.query.get("after")
    if order == "desc":
        ids, items = ids[::-1], items[::-1]
    start = 0
    if after is not None:
        if after not in ids:
            raise _invalid("after", f"there is no item with id '{after[:80]}'")
        start = ids.index(after) + 1
    page: list[Item] = [json.loads(item) for item in items[start : start + limit]]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": start + limit < len(items),
    }


def _limit(request: web.Request) -> int:
    text = request.query.get("limit", str(_DEFAULT_LIMIT))
    if not (text.isascii() and text.isdigit() and len(text) <= 3 and 1 <= int(text) <= _MAX_LIMIT):
        raise _invalid("limit", f"it must be a number from 1 to {_MAX_LIMIT}")
    return int(text)


def _order(request: web.Request) -> str:
    order = request.query.get("order", "desc")
    if order not in {"asc", "desc"}:
        raise _invalid("order", "it must be 'asc' or 'desc'")
    return order


def _invalid(param: str, reason: str) -> InvalidRequestError:
    return InvalidRequestError(f"Invalid '{param}': {reason}.", param=param, code="invalid_value")

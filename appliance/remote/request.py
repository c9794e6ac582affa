"""One request to a device, and its answer: the JSON of a success, or an error with the device's own message.

What is read of a success is declared in `answers`.
"""

from __future__ import annotations

from typing import Any

import aiohttp
from pydantic_core import from_json

from appliance.discovery.record import printable
from appliance.errors import DeviceError
from appliance.remote.answers import AnswerType, T, not_as_expected

Json = dict[str, Any]

_MAX_SENTENCE_CHARS = 500


async def request_json(
    session: aiohttp.ClientSession,
    method: str,
    path: str,
    body: object = None,
    *,
    idle_timeout_s: float | None = None,
) -> Json:
    """Send one request once, and return the JSON object of its answer, unread.

    Raises:
        DeviceError: refused, or lost.
    """
    return (await ask(session, method, path, body, idle_timeout_s))[1]


async def request_as(
    answer_type: AnswerType[T],
    session: aiohttp.ClientSession,
    method: str,
    path: str,
    body: object = None,
    *,
    idle_timeout_s: float | None = None,
) -> T:
    """Send one request once, and read its answer.

    Raises:
        DeviceError: refused, lost, or an answer without a field that is read.
    """
    device, value = await ask(session, method, path, body, idle_timeout_s)
    return answer_type.of(value, device=device, request=f"{method} {path}")


async def ask(
    session: aiohttp.ClientSession, method: str, path: str, body: object = None, idle_timeout_s: float | None = None
) -> tuple[str, Json]:
    """Send one request once, and return the address that answered and the JSON object of its answer, unread.

    Raises:
        DeviceError: refused, or lost.
    """
    more: dict[str, Any] = {} if body is None else {"json": body}
    if idle_timeout_s is not None:
        more["timeout"] = aiohttp.ClientTimeout(total=None, sock_read=idle_timeout_s)
    try:
        async with session.request(method, path, **more) as answer:
            return address_of(answer), await answer_of(answer)
    except (aiohttp.ClientError, TimeoutError) as err:
        raise lost(err) from err


def address_of(answer: aiohttp.ClientResponse) -> str:
    """Return scheme, host and port of the device that answered."""
    return str(answer.url.origin())


def lost(err: aiohttp.ClientError | TimeoutError) -> DeviceError:
    """Return the error of a request without an answer."""
    return DeviceError(f"the device did not answer: {err or type(err).__name__}")


async def answer_of(answer: aiohttp.ClientResponse) -> Json:
    """Return the JSON object of a success.

    Raises:
        DeviceError: an error object, or no JSON.
    """
    try:
        value = await answer.json(loads=from_json)  # it refuses what no terminal can show
    except (ValueError, RecursionError, LookupError, aiohttp.ContentTypeError) as err:  # an unknown charset is one
        raise DeviceError(f"{address_of(answer)} answered {answer.status} and no JSON", status=answer.status) from err
    if answer.ok and isinstance(value, dict):
        return value
    if answer.ok:
        raise not_as_expected(address_of(answer), f"{answer.method} {answer.url.path}", "without an object")
    error = value.get("error") if isinstance(value, dict) else None
    said = error if isinstance(error, dict) else {}
    code, message = said.get("code"), said.get("message")
    known = message if isinstance(message, str) and message else f"{address_of(answer)} answered {answer.status}"
    raise DeviceError(
        printable(known, max_chars=_MAX_SENTENCE_CHARS),
        status=answer.status,
        reason=code if isinstance(code, str) else None,
        retry_after_s=_seconds(answer.headers.get("Retry-After", "")),
    )


def _seconds(text: str) -> float | None:
    return float(text) if text.isascii() and text.isdigit() and len(text) < 5 else None

"""One request to a device, and its answer: the JSON of a success, or an error with the device's own message.

The type of a success is the one that the server declares at its route; `administration` names it.
"""

from __future__ import annotations

from typing import Any

import aiohttp

from appliance.errors import DeviceError

Json = dict[str, Any]


async def request_json(
    session: aiohttp.ClientSession,
    method: str,
    path: str,
    body: object = None,
    *,
    idle_timeout_s: float | None = None,
) -> Json:
    """Send one request once, and return the JSON of its answer.

    Raises:
        DeviceError: refused, or lost.
    """
    more: dict[str, Any] = {} if body is None else {"json": body}
    if idle_timeout_s is not None:
        more["timeout"] = aiohttp.ClientTimeout(total=None, sock_read=idle_timeout_s)
    try:
        async with session.request(method, path, **more) as answer:
            return await answer_of(answer)
    except (aiohttp.ClientError, TimeoutError) as err:
        raise lost(err) from err


def lost(err: aiohttp.ClientError | TimeoutError) -> DeviceError:
    """Return the error of a request without an answer."""
    return DeviceError(f"the device did not answer: {err or type(err).__name__}")


async def answer_of(answer: aiohttp.ClientResponse) -> Json:
    """Return the JSON of a success.

    Raises:
        DeviceError: an error object, or no JSON.
    """
    try:
        value = await answer.json()
    except (ValueError, aiohttp.ContentTypeError) as err:
        raise DeviceError(f"the device answered {answer.status} and no JSON", status=answer.status) from err
    if answer.ok and isinstance(value, dict):
        return value
    error = value.get("error") if isinstance(value, dict) else None
    said = error if isinstance(error, dict) else {}
    code = said.get("code")
    raise DeviceError(
        str(said.get("message") or f"the device answered {answer.status}")[:500],
        status=answer.status,
        reason=code if isinstance(code, str) else None,
        retry_after_s=_seconds(answer.headers.get("Retry-After", "")),
    )


def _seconds(text: str) -> float | None:
    return float(text) if text.isascii() and text.isdigit() and len(text) < 5 else None

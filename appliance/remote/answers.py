"""One request to a device, and what its answer says: the JSON of a success, or an error in the device's own words."""

from __future__ import annotations

from typing import Any

import aiohttp

from appliance.errors import DeviceError

Answer = dict[str, Any]


async def ask(
    session: aiohttp.ClientSession,
    method: str,
    path: str,
    body: object = None,
    *,
    idle_timeout_s: float | None = None,
) -> Answer:
    """One request that is made once.

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
        raise DeviceError(f"the device did not answer: {err or type(err).__name__}") from err


async def answer_of(answer: aiohttp.ClientResponse) -> Answer:
    """The JSON of a success.

    Raises:
        DeviceError: an error object, or no JSON at all.
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

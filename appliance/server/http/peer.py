"""The client at the other end of a request: on this machine, or on another one."""

from __future__ import annotations

from aiohttp import web

from appliance.host.addresses import is_loopback

_FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Real-IP", "Via")


def is_local(request: web.Request) -> bool:
    """Return True for a client on this machine; a proxy here, which names its client, stands for another machine."""
    return is_loopback(request.remote or "") and not any(name in request.headers for name in _FORWARDED)

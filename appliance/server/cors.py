"""Pages of other origins (Fetch standard, section 3.2): none unless configured, and then those origins alone."""

from __future__ import annotations

from collections.abc import Iterable

from aiohttp import hdrs, web

_MAX_AGE_S = 600
_EXPOSED = "x-request-id, x-should-retry, retry-after"
_METHODS = "GET, HEAD, POST, OPTIONS"


class Cors:
    """The origins whose pages may read answers; "*" stands for all of them."""

    def __init__(self, origins: Iterable[str] = ()) -> None:
        self._origins = frozenset(origin.rstrip("/") for origin in origins)

    def allows(self, request: web.BaseRequest) -> bool:
        """Whether a page of a configured origin sent it."""
        origin = request.headers.get(hdrs.ORIGIN)
        return origin is not None and ("*" in self._origins or origin in self._origins)

    def is_preflight(self, request: web.BaseRequest) -> bool:
        """Whether an allowed page's browser asks if it may send a request; it brings no key."""
        return (
            request.method == hdrs.METH_OPTIONS
            and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers
            and self.allows(request)
        )

    def headers(self, request: web.BaseRequest) -> dict[str, str]:
        """What lets the page read the answer; nothing for everybody else."""
        if not self._origins:
            return {}
        if not self.allows(request):
            return {hdrs.VARY: hdrs.ORIGIN}
        return {
            hdrs.VARY: hdrs.ORIGIN,
            hdrs.ACCESS_CONTROL_ALLOW_ORIGIN: request.headers[hdrs.ORIGIN],
            hdrs.ACCESS_CONTROL_EXPOSE_HEADERS: _EXPOSED,
        }

    def preflight(self, request: web.BaseRequest) -> web.Response:
        """Yes, with whatever headers were asked for: SDKs send `x-stainless-*` and add to them at any time."""
        headers: dict[str, str] = {
            hdrs.ACCESS_CONTROL_ALLOW_METHODS: _METHODS,
            hdrs.ACCESS_CONTROL_ALLOW_HEADERS: request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_HEADERS, ""),
            hdrs.ACCESS_CONTROL_MAX_AGE: str(_MAX_AGE_S),
        }
        if request.headers.get("Access-Control-Request-Private-Network") == "true":
            headers["Access-Control-Allow-Private-Network"] = "true"
        return web.Response(status=204, headers=headers)

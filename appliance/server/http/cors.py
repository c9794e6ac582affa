"""Pages of other origins (Fetch standard, section 3.2): none unless configured, and then those origins alone."""

from __future__ import annotations

from collections.abc import Iterable

from aiohttp import hdrs, web

_MAX_AGE_S = 600
_EXPOSED = "x-request-id, x-should-retry, retry-after, x-lantern-ignored-tools"
_METHODS = "GET, HEAD, POST, DELETE, OPTIONS"


class Cors:
    """The origins whose pages may read answers; "*" stands for all of them.

    An application has an origin with a scheme of its own; `vscode-webview://*` stands for all with that scheme.
    """

    def __init__(self, origins: Iterable[str] = ()) -> None:
        given = set(origins)
        self._schemes = frozenset(origin.removesuffix("*") for origin in given if _names_all_of_a_scheme(origin))
        self._origins = frozenset(origin.rstrip("/") for origin in given)

    def allows(self, request: web.BaseRequest) -> bool:
        """Return True if a page of a configured origin sent the request."""
        origin = request.headers.get(hdrs.ORIGIN)
        if origin is None:
            return False
        scheme = origin[: origin.find("://") + 3]
        return "*" in self._origins or origin in self._origins or scheme in self._schemes

    def is_preflight(self, request: web.BaseRequest) -> bool:
        """Return True if the browser of an allowed page asks for permission to send a request; it has no key."""
        return (
            request.method == hdrs.METH_OPTIONS
            and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers
            and self.allows(request)
        )

    def headers(self, request: web.BaseRequest) -> dict[str, str]:
        """Return the headers that let an allowed page read the answer; other pages get none."""
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
        """Allow every header that was asked for: SDKs send `x-stainless-*`, and may add others at any time."""
        headers: dict[str, str] = {
            hdrs.ACCESS_CONTROL_ALLOW_METHODS: _METHODS,
            hdrs.ACCESS_CONTROL_ALLOW_HEADERS: request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_HEADERS, ""),
            hdrs.ACCESS_CONTROL_MAX_AGE: str(_MAX_AGE_S),
        }
        if request.headers.get("Access-Control-Request-Private-Network") == "true":
            headers["Access-Control-Allow-Private-Network"] = "true"
        return web.Response(status=204, headers=headers)


def _names_all_of_a_scheme(origin: str) -> bool:
    return origin.endswith("://*") and not origin.startswith("http")

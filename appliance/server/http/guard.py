"""Requests that are refused from every caller: foreign hosts, pages of other sites, odd targets, wrong content types.

A page in a LAN user's browser can reach this server by DNS rebinding or by a cross-site form; neither carries a Host
of ours, or an honest JSON content type without a preflight.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable

from aiohttp import HttpVersion10, HttpVersion11, hdrs, web

from appliance.errors import ForbiddenError, InvalidRequestError, LanternError

_SEC_FETCH_SITE = "Sec-Fetch-Site"
_OWN_SITE = {"same-origin", "none"}  # "none": the user typed the address
_SAFE_METHODS = {hdrs.METH_GET, hdrs.METH_HEAD, hdrs.METH_OPTIONS}
_MAX_PORT = 65535


class UnsupportedMediaTypeError(InvalidRequestError):
    """A body of another type than JSON."""

    status = 415
    code = "unsupported_media_type"


class MisdirectedRequestError(LanternError):
    """A request for a host that this server is not (RFC 9110, section 15.5.20)."""

    status = 421
    type = "invalid_request_error"
    code = "misdirected_request"


class Guard:
    """The names under which this server may be addressed, and the checks every request passes."""

    def __init__(self, *, host_names: Iterable[str], alias: Callable[[], str | None] = lambda: None) -> None:
        """`alias` returns a name that the device holds now: under it others may only be reached while it is ours."""
        self._alias = alias
        self._host_names = {name.lower().rstrip(".") for name in host_names} | {"localhost"}

    def check(self, request: web.Request, *, is_from_allowed_page: bool = False, is_page: bool = False) -> None:
        """Check version, host and origin; requests of pages that the operator allowed may come from other sites.

        A link of another site may lead to a page of ours (`is_page`).

        Raises:
            InvalidRequestError: another version of HTTP.
            MisdirectedRequestError: the Host header is missing in HTTP/1.1, doubled, or foreign.
            ForbiddenError: a page of another site sent it.
        """
        if request.version not in {HttpVersion10, HttpVersion11}:
            raise InvalidRequestError("The request is not valid HTTP/1.1.", code="malformed_request")
        self._check_host(request)
        if not (is_from_allowed_page or _is_from_here(request) or (is_page and _is_navigation(request))):
            raise ForbiddenError("Requests from pages of other sites are refused; see the setting server.cors_origins.")

    def check_body(self, request: web.Request, *, body_type: str = "application/json") -> None:
        """Check the body's type and encoding.

        Raises:
            UnsupportedMediaTypeError: a body of another type than this, or compressed.
        """
        if request.body_exists and request.content_type != body_type:
            raise UnsupportedMediaTypeError(f"The content type must be {body_type}, not {request.content_type[:80]!r}.")
        if request.headers.get(hdrs.CONTENT_ENCODING, "identity").lower() != "identity":
            raise UnsupportedMediaTypeError("A body must be sent without a Content-Encoding.")

    def _check_host(self, request: web.Request) -> None:
        hosts = request.headers.getall(hdrs.HOST, [])
        if not request.raw_path.startswith("/") and request.raw_path != "*":
            raise MisdirectedRequestError("The request target must be a path.")
        if not hosts and request.version == HttpVersion10:
            return  # RFC 9112, section 3.2: optional there; browsers, which can be led astray, always send it
        if len(hosts) != 1:
            raise MisdirectedRequestError("A request needs exactly one Host header.")
        name = host_name(hosts[0])
        if name is None or not (name in self._host_names or _is_address(name) or name == self._alias()):
            raise MisdirectedRequestError(
                f"This server is not {hosts[0][:80]!r}; use its address, or add the name to server.host_names."
            )


def _is_from_here(request: web.Request) -> bool:
    """Return True unless a page of another site sent the request.

    Over plain HTTP browsers send no Sec-Fetch-Site, but every request that may change something has its Origin.
    """
    sites = set(request.headers.getall(_SEC_FETCH_SITE, []))
    if sites or request.method in _SAFE_METHODS:
        return sites <= _OWN_SITE
    own = request.headers.get(hdrs.HOST, "").lower()
    return all(origin.lower().partition("://")[2] == own for origin in request.headers.getall(hdrs.ORIGIN, []))


def _is_navigation(request: web.Request) -> bool:
    """Return True if the browser opens the target in a tab: no other page can read what comes."""
    fetch = (request.headers.get("Sec-Fetch-Mode"), request.headers.get("Sec-Fetch-Dest"))
    return request.method in _SAFE_METHODS and fetch == ("navigate", "document")


def host_name(host: str) -> str | None:
    """Return the name or address of a Host header, without port and brackets; None if it is malformed."""
    if host.startswith("["):
        name, bracket, port = host[1:].partition("]")
        if not bracket or (port and not (port.startswith(":") and _is_port(port[1:]))):
            return None
        return name.lower()
    name, colon, port = host.partition(":")
    if (colon and not _is_port(port)) or not name:
        return None
    return name.lower().rstrip(".")


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= len(str(_MAX_PORT)) and int(text) <= _MAX_PORT


def _is_address(name: str) -> bool:
    """Return True for an address literal; none can be rebound, so all are allowed."""
    try:
        ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return True

"""Requests that are refused whoever sends them: foreign hosts, other sites' pages, odd targets, wrong content types.

A page in a LAN user's browser can reach this server by DNS rebinding or by a cross-site form; neither carries a Host
of ours, or an honest JSON content type without a preflight.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from aiohttp import HttpVersion10, HttpVersion11, hdrs, web

from appliance.errors import ForbiddenError, InvalidRequestError, LanternError

_SEC_FETCH_SITE = "Sec-Fetch-Site"
_OWN_SITE = {"same-origin", "none"}  # "none": the user typed the address
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

    def __init__(self, *, host_names: Iterable[str]) -> None:
        self._host_names = {name.lower().rstrip(".") for name in host_names} | {"localhost"}

    def check(self, request: web.Request, *, is_from_allowed_page: bool = False) -> None:
        """Refuse by raising; pages of origins that the operator allowed may come from other sites.

        Raises:
            InvalidRequestError: another version of HTTP.
            MisdirectedRequestError: the Host header is missing, doubled, or foreign.
            ForbiddenError: a page of another site sent it.
        """
        if request.version not in {HttpVersion10, HttpVersion11}:
            raise InvalidRequestError("The request is not valid HTTP/1.1.", code="malformed_request")
        self._check_host(request)
        if not set(request.headers.getall(_SEC_FETCH_SITE, [])) <= _OWN_SITE and not is_from_allowed_page:
            raise ForbiddenError("Requests from pages of other sites are refused; see the setting server.cors_origins.")

    def check_body(self, request: web.Request, *, body_type: str = "application/json") -> None:
        """Refuse by raising.

        Raises:
            UnsupportedMediaTypeError: a body of another type than this, or compressed.
        """
        if request.body_exists and request.content_type != body_type:
            raise UnsupportedMediaTypeError(f"The content type must be {body_type}, not {request.content_type[:80]!r}.")
        if request.headers.get(hdrs.CONTENT_ENCODING, "identity").lower() != "identity":
            raise UnsupportedMediaTypeError("A body must be sent without a Content-Encoding.")

    def _check_host(self, request: web.Request) -> None:
        hosts = request.headers.getall(hdrs.HOST, [])
        if len(hosts) != 1:
            raise MisdirectedRequestError("A request needs exactly one Host header.")
        if not request.raw_path.startswith("/") and request.raw_path != "*":
            raise MisdirectedRequestError("The request target must be a path.")
        name = host_name(hosts[0])
        if name is None or not (name in self._host_names or _is_address(name)):
            raise MisdirectedRequestError(
                f"This server is not {hosts[0][:80]!r}; use its address, or add the name to server.host_names."
            )


def host_name(host: str) -> str | None:
    """The name or address of a Host header, without port and brackets; None where it is malformed."""
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
    """An address literal cannot be rebound, so any is fine."""
    try:
        ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return True

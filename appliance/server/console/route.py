"""GET / and /console/NAME: the device's own page, for everybody and in every state; it holds no secret.

Where the device has HTTPS, plain HTTP answers a landing page that leads there, unless the reader sits at the device.
"""

from __future__ import annotations

import re

from aiohttp import hdrs, web

from appliance.host.addresses import is_loopback
from appliance.server.console.assets import LANDING, PAGE, Asset, assets
from appliance.server.context import CONTEXT
from appliance.server.http.guard import host_name
from appliance.server.http.routing import Access, Routes

ROUTES = Routes()

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src {connect}; "
    "manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)

_FILES = assets()
_NO_GZIP = re.compile(r"^gzip\s*;\s*q=0(\.0*)?$")
_PLAIN = "plain"  # the reader goes on without HTTPS


@ROUTES.get("/", access=Access.OPEN, is_page=True)
async def page(request: web.Request) -> web.Response:
    """Return the page, or the landing page."""
    return _answer(request, _FILES[LANDING if _leads_to_https(request) else PAGE])


@ROUTES.get("/console/{name:.+}", access=Access.OPEN)
async def asset(request: web.Request) -> web.Response:
    """Return a file of the page."""
    found = _FILES.get(request.match_info["name"])
    if found is None:
        raise web.HTTPNotFound
    return _answer(request, found)


def _leads_to_https(request: web.Request) -> bool:
    """Tell if the reader came over plain HTTP from the network, to a device that has HTTPS."""
    if request.secure or request.app[CONTEXT].identity.origin is None or _PLAIN in request.query:
        return False
    return not is_loopback(host_name(request.headers.get(hdrs.HOST, "")) or "")


def _policy(request: web.Request) -> str:
    """Return the policy; a page under another name may ask if the device's own name is reached over HTTPS."""
    origin = request.app[CONTEXT].identity.origin
    return CONTENT_SECURITY_POLICY.format(connect="'self'" if origin is None else f"'self' {origin}")


def _answer(request: web.Request, found: Asset) -> web.Response:
    headers = {
        hdrs.CONTENT_TYPE: found.content_type,
        hdrs.ETAG: found.etag,
        hdrs.CACHE_CONTROL: "no-cache",
        hdrs.VARY: hdrs.ACCEPT_ENCODING,
        "Content-Security-Policy": _policy(request),
        "Referrer-Policy": "no-referrer",
    }
    if _is_known(request.headers.get(hdrs.IF_NONE_MATCH, ""), found.etag):
        return web.Response(status=304, headers=headers)
    if _takes_gzip(request.headers.get(hdrs.ACCEPT_ENCODING, "")):
        return web.Response(body=found.compressed, headers={**headers, hdrs.CONTENT_ENCODING: "gzip"})
    return web.Response(body=found.plain, headers=headers)


def _is_known(tags: str, etag: str) -> bool:
    return any(tag.strip() in {etag, etag.removeprefix("W/"), "*"} for tag in tags.split(","))


def _takes_gzip(encodings: str) -> bool:
    offers = [offer.strip().lower() for offer in encodings.split(",")]
    return any(offer.partition(";")[0].strip() == "gzip" and not _NO_GZIP.match(offer) for offer in offers)

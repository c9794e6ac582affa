"""A door on this machine to one device: plain HTTP on loopback here, TLS with the device's pin and its key there.

For programs that cannot check a pin and should not hold keys. A door that is shut takes no requests, and ends those
under way. Where nothing was said yet, a neighbour that serves the same model is then asked: a router in front learns
too late that a device has lost its power, and would ask it again, for it has nothing to do.
"""

from __future__ import annotations

import asyncio
import hmac
import http
import json
import logging
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

import aiohttp
from aiohttp import hdrs, web

from appliance.remote.session import session_to
from appliance.remote.target import Target

_LOGGER = logging.getLogger(__name__)

_MAX_BODY_BYTES = 16 << 20
_KEPT = (hdrs.CONTENT_TYPE, hdrs.RETRY_AFTER, "x-request-id", "x-should-retry")
_HOSTS = {"127.0.0.1", "localhost"}


class Relay:
    """Forwards to one target while it is open; `async with` starts and stops it, one event loop owns it."""

    def __init__(
        self, target: Target, *, token: str, neighbours: Callable[[str], Sequence[Relay]] = lambda _model: ()
    ) -> None:
        """Serve whoever has the token, for loopback is open to every user of this machine.

        `neighbours` are the relays that may answer for this one when asked for a model, best first.
        """
        self.target = target
        self._token = token
        self._neighbours = neighbours
        self._open = True
        self._runner: web.AppRunner | None = None
        self._session: aiohttp.ClientSession | None = None
        self._forwarding: set[asyncio.Task[bool]] = set()

    @property
    def base_url(self) -> str:
        """The base URL for programs on this machine."""
        assert self._runner is not None
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"

    @property
    def num_forwarding(self) -> int:
        """The requests under way."""
        return len(self._forwarding)

    @property
    def is_open(self) -> bool:
        """True while requests are forwarded."""
        return self._open

    def open(self) -> None:
        """Take requests."""
        self._open = True

    def shut(self, *, abort: bool) -> None:
        """Take no more requests; with `abort` end those under way too, for the device is gone."""
        self._open = False
        if abort:
            for task in self._forwarding:
                task.cancel()

    async def retarget(self, target: Target) -> None:
        """Lead to the same device at another address; what is under way at the former one ends."""
        former, self._session, self.target = self._session, session_to(target), target
        if former is not None:
            await former.close()

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=_MAX_BODY_BYTES)
        app.router.add_route("*", "/{path:.*}", self._serve)
        self._session = session_to(self.target)
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.shut(abort=True)
        if self._runner is not None:
            await self._runner.cleanup()
        if self._session is not None:
            await self._session.close()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        if request.url.host not in _HOSTS:
            raise web.HTTPMisdirectedRequest
        shown = request.headers.get(hdrs.AUTHORIZATION, "").removeprefix("Bearer ")
        if not hmac.compare_digest(shown.encode("utf-8", "surrogateescape"), self._token.encode()):
            raise web.HTTPUnauthorized
        body = await request.read()
        asked = [self, *(relay for relay in self._neighbours(_model(body)) if relay is not self)]
        response = web.StreamResponse()
        for relay in asked:
            if relay.is_open and await relay.answer(request, body, response):
                return response
            if response.prepared:
                break
        if not response.prepared:
            return _unavailable(f"{self.target.name} is not there, and nobody else who serves this.")
        _cut(request)
        return response

    async def answer(self, request: web.Request, body: bytes, response: web.StreamResponse) -> bool:
        """Forward a request; False when the device did not answer it, or not to the end."""
        task = asyncio.create_task(self._forward(request, body, response))
        self._forwarding.add(task)
        try:
            await asyncio.wait([task])
        finally:
            self._forwarding.discard(task)
            task.cancel()
        if task.cancelled():
            return False
        if isinstance(err := task.exception(), (aiohttp.ClientError, OSError, TimeoutError)):
            _LOGGER.info("%s did not answer: %s", self.target.name, err)
            return False
        return task.result()

    async def _forward(self, request: web.Request, body: bytes, response: web.StreamResponse) -> bool:
        assert self._session is not None
        headers = {hdrs.CONTENT_TYPE: request.content_type} if body else {}
        path = f"/{request.match_info['path']}"
        asked = self._session.request(request.method, path, data=body or None, headers=headers, allow_redirects=False)
        async with asked as answer:
            if answer.status == http.HTTPStatus.SERVICE_UNAVAILABLE:
                return False
            response.set_status(answer.status)
            for name in _KEPT:
                if name in answer.headers:
                    response.headers[name] = answer.headers[name]
            first = await _first_said(answer.content)
            await response.prepare(request)
            await response.write(first)
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
            await response.write_eof()
        return True


async def _first_said(content: aiohttp.StreamReader) -> bytes:
    """Up to the first bytes that say anything: the comments that keep a stream of events open do not."""
    said = b""
    while more := await content.readany():
        said += more
        if any(line and not line.startswith(b":") for line in said.splitlines()):
            break
    return said


def _model(body: bytes) -> str:
    """Return the model of a request; an empty name if it names none."""
    try:
        model = json.loads(body).get("model")
    except (ValueError, AttributeError, RecursionError):
        return ""
    return model if isinstance(model, str) else ""


def _unavailable(message: str) -> web.Response:
    error = {"message": message, "type": "server_error", "param": None, "code": "service_unavailable"}
    return web.json_response({"error": error}, status=503, headers={hdrs.RETRY_AFTER: "1"})


def _cut(request: web.Request) -> None:
    """End the connection in the midst of an answer: a clean end would pass for a whole one."""
    if request.transport is not None:
        request.transport.abort()

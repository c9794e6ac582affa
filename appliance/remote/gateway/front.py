"""The port that a gateway's clients see: every request goes to the process that is the current one at the time.

A client keeps its connection while processes come and go behind it: a process that closed an idle connection would
meet a request on its way. Knows nothing of keys: it hands on what clients say, and the process judges.
"""

from __future__ import annotations

import asyncio
import collections
from types import TracebackType
from typing import Self

import aiohttp
from aiohttp import hdrs, web

from appliance.errors import ConfigError

_MAX_BODY_BYTES = 16 << 20
_HOP_BY_HOP = {"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "host", "content-length"}


class Front:
    """One address and port; `async with` opens and closes it, and one event loop owns it."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._behind: int | None = None
        self._num_under_way: collections.Counter[int] = collections.Counter()
        self._drained = asyncio.Event()
        self._runner: web.AppRunner | None = None
        self._session: aiohttp.ClientSession | None = None

    @property
    def port(self) -> int:
        """The port in use."""
        assert self._runner is not None
        port: int = self._runner.addresses[0][1]
        return port

    def route_to(self, port: int) -> None:
        """Send requests to this port from now on."""
        self._behind = port

    async def drained(self, port: int) -> None:
        """Wait until no request is under way there."""
        while self._num_under_way[port]:
            self._drained.clear()
            await self._drained.wait()

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=_MAX_BODY_BYTES)
        app.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None)
        await self._runner.setup()
        # A connection for each request: what is kept open may be closed by the other side just when it is used.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(force_close=True, limit=0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=5.0),
            auto_decompress=False,
        )
        try:
            await web.TCPSite(self._runner, self._host, self._port).start()
        except OSError as err:
            await self._close()
            raise ConfigError(f"{self._host}:{self._port} cannot be used: {err.strerror or err}.") from err
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._close()

    async def _close(self) -> None:
        assert self._runner is not None
        assert self._session is not None
        await self._runner.cleanup()
        await self._session.close()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        if (port := self._behind) is None:
            return _not_there("The gateway is starting.")
        body = await request.read()
        response = web.StreamResponse()
        self._num_under_way[port] += 1
        try:
            await self._forward(request, body, port, response)
        except (aiohttp.ClientError, OSError, TimeoutError):
            if not response.prepared:
                return _not_there("The gateway's router did not answer.")
            if request.transport is not None:
                request.transport.abort()  # a clean end would pass for a whole answer
        finally:
            self._num_under_way[port] -= 1
            self._drained.set()
        return response

    async def _forward(self, request: web.Request, body: bytes, port: int, response: web.StreamResponse) -> None:
        assert self._session is not None
        headers = [(name, value) for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP]
        url = f"http://127.0.0.1:{port}{request.path_qs}"
        asked = self._session.request(request.method, url, data=body or None, headers=headers, allow_redirects=False)
        async with asked as answer:
            response.set_status(answer.status)
            for name, value in answer.headers.items():
                if name.lower() not in _HOP_BY_HOP:
                    response.headers.add(name, value)
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
            await response.write_eof()


def _not_there(message: str) -> web.Response:
    error = {"message": message, "type": "server_error", "param": None, "code": "service_unavailable"}
    return web.json_response({"error": error}, status=503, headers={hdrs.RETRY_AFTER: "1"})

"""Sockets to protocol: aiohttp's handler, with its own refusals in OpenAI's form and without a traceback for them."""

from __future__ import annotations

import asyncio
import logging
import socket
import uuid
from collections.abc import Sequence

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from appliance.errors import InvalidRequestError
from appliance.server.app import BodyTooLargeError, InternalError
from appliance.server.error_body import error_body

_LOGGER = logging.getLogger(__name__)

_SILENT = logging.getLogger(f"{__name__}.access")  # app.py writes the one line of a request
_SILENT.disabled = True

_KEEP_ALIVE_S = 75.0
_BACKLOG = 512


class Listener:
    """Serves an application on sockets that somebody else bound; cancels a handler when its client leaves."""

    def __init__(self, app: web.Application, sockets: Sequence[socket.socket]) -> None:
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, handle_signals=False)
        self._sockets = list(sockets)
        self._servers: list[asyncio.Server] = []

    async def start(self) -> None:
        """Accept connections."""
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        for sock in self._sockets:
            self._servers.append(await loop.create_server(self._protocol, sock=sock, backlog=_BACKLOG))

    async def close(self, *, timeout_s: float = 2.0) -> None:
        """Stop accepting, then close every connection."""
        for server in self._servers:
            server.close()
        await asyncio.sleep(0)
        if self._runner.server is not None:
            self._runner.server.pre_shutdown()
            await self._runner.server.shutdown(timeout_s)
        await self._runner.cleanup()

    def _protocol(self) -> RequestHandler:
        server = self._runner.server
        assert server is not None
        return _Connection(server, loop=asyncio.get_running_loop(), access_log=_SILENT, keepalive_timeout=_KEEP_ALIVE_S)


class _Connection(RequestHandler):
    """One connection whose parser errors leave as the error object, like any other."""

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if request.writer.output_size > 0:
            raise ConnectionError("the response has begun")
        request_id = f"req_{uuid.uuid4().hex}"
        if status >= 500:
            _LOGGER.error("%s failed below the application", request_id, exc_info=exc)
            body = error_body(InternalError.of(request_id))
        elif status == 413:
            body = error_body(BodyTooLargeError("The request is too large."))
        else:
            _LOGGER.info("%s malformed HTTP, answered %d", request_id, status)
            body = error_body(InvalidRequestError("The request is not valid HTTP/1.1.", code="malformed_request"))
        response = web.json_response(body, status=status, headers={"x-request-id": request_id})
        response.force_close()
        return response


def bind(host: str, port: int) -> list[socket.socket]:
    """Listening sockets for a host name or address; "" and "0.0.0.0" with "::" take both families where they can.

    Raises:
        OSError: the port is in use, or the address is not one of this machine's.
    """
    infos = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(infos):
            sock = socket.socket(family, kind, protocol)
            sockets.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(address)
            sock.setblocking(False)
            if port == 0:
                break
    except OSError:
        for sock in sockets:
            sock.close()
        raise
    return sockets

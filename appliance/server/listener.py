"""Sockets to protocol: accepts connections, in clear or over TLS, and closes them in order."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Sequence

from aiohttp import web

from appliance.server.connection import Connection
from appliance.server.handshake import Handshake
from appliance.server.limits import DEFAULT_LIMITS, ConnectionLimits
from appliance.server.reaper import Reaper

_BACKLOG = 512
_TURNS_TO_ACCEPT = 4  # of the loop, from a connection that asyncio has accepted to its protocol's connection_made


class Listener:
    """Serves an application on sockets that somebody else bound; cancels a handler when its client leaves."""

    def __init__(
        self,
        app: web.Application,
        sockets: Sequence[socket.socket],
        *,
        tls_sockets: Sequence[socket.socket] = (),
        tls: ssl.SSLContext | None = None,
        limits: ConnectionLimits = DEFAULT_LIMITS,
    ) -> None:
        """`tls` is needed where there are `tls_sockets`."""
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, handle_signals=False)
        self._tls = tls
        self._sockets: list[tuple[socket.socket, Callable[[], asyncio.Protocol]]] = [
            *((sock, self._connection) for sock in sockets),
            *((sock, self._handshake) for sock in tls_sockets),
        ]
        self._limits = limits
        self._reaper = Reaper(limits)
        self._stack = contextlib.AsyncExitStack()
        self._servers: list[asyncio.Server] = []
        self._handshakes: set[asyncio.Task[None]] = set()

    @property
    def num_connections(self) -> int:
        """Connections that are served, or shake hands, at the moment."""
        return self._reaper.num_connections

    def show(self, tls: ssl.SSLContext) -> None:
        """Shake hands with another certificate from now on; connections that are open go on with theirs."""
        self._tls = tls

    async def start(self) -> None:
        """Accept connections."""
        await self._runner.setup()
        await self._stack.enter_async_context(self._reaper.running())
        loop = asyncio.get_running_loop()
        for sock, accept in self._sockets:
            self._servers.append(await loop.create_server(accept, sock=sock, backlog=_BACKLOG))

    def stop_accepting(self) -> None:
        """Let new connections wait in the sockets, for whoever reads them next.

        The servers stay open: asyncio forgets connections that it has accepted when their server closes before they
        have a transport (seen on CPython 3.11, where Server._attach asserts that the server is open).
        """
        for sock, _ in self._sockets:
            asyncio.get_running_loop().remove_reader(sock)

    async def close(self, *, timeout_s: float = 2.0) -> None:
        """Stop accepting, then close every connection."""
        self.stop_accepting()
        for _ in range(_TURNS_TO_ACCEPT):
            await asyncio.sleep(0)
        for server in self._servers:
            server.close()
        if self._runner.server is not None:
            self._runner.server.pre_shutdown()
            await self._runner.server.shutdown(timeout_s)
        await self._runner.cleanup()
        await self._stack.aclose()
        self._reaper.cut_all()
        await asyncio.sleep(0)  # what was cut is closed in the next turn of the loop
        if self._handshakes:
            await asyncio.wait(self._handshakes)
            await asyncio.sleep(0)

    def _connection(self) -> Connection:
        server = self._runner.server
        assert server is not None
        return Connection(server, self._reaper, self._limits)

    def _handshake(self) -> Handshake:
        assert self._tls is not None
        return Handshake(self._tls, self._connection, self._reaper, self._limits, self._handshakes)


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

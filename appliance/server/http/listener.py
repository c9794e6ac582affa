"""The listener: accepts connections, in clear or over TLS, and closes them in order."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Sequence

from aiohttp import web

from appliance.background import Lifetime
from appliance.server.http.connection import DEFAULT_LIMITS, Connection, ConnectionLimits
from appliance.server.http.handshake import Handshake
from appliance.server.http.reaper import Reaper

_BACKLOG = 512
_TURNS_TO_ACCEPT = 4  # of the loop, from a connection that asyncio has accepted to its protocol's connection_made


class Listener(Lifetime):
    """Serves an application on bound sockets, once told to `accept`; cancels a handler when its client leaves."""

    def __init__(
        self,
        app: web.Application,
        sockets: Sequence[socket.socket],
        *,
        tls_sockets: Sequence[socket.socket] = (),
        tls: ssl.SSLContext | None = None,
        limits: ConnectionLimits = DEFAULT_LIMITS,
    ) -> None:
        """`tls` is needed if there are `tls_sockets`."""
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, handle_signals=False)
        self._tls = tls
        self._sockets: list[tuple[socket.socket, Callable[[], asyncio.Protocol]]] = [
            *((sock, self._connection) for sock in sockets),
            *((sock, self._handshake) for sock in tls_sockets),
        ]
        self._limits = limits
        self._reaper = Reaper(limits)
        self._servers: list[asyncio.Server] = []
        self._handshakes: set[asyncio.Task[None]] = set()

    @property
    def num_connections(self) -> int:
        """Connections that are served, or shake hands, at the moment."""
        return self._reaper.num_connections

    def use_certificate(self, tls: ssl.SSLContext) -> None:
        """Shake hands with another certificate from now on; open connections keep theirs."""
        self._tls = tls

    async def accept(self) -> None:
        """Accept connections from now on."""
        loop = asyncio.get_running_loop()
        for sock, accept in self._sockets:
            self._servers.append(await loop.create_server(accept, sock=sock, backlog=_BACKLOG))

    def stop_accepting(self) -> None:
        """Let new connections wait in the sockets, for the process that reads them next.

        The servers stay open: asyncio forgets connections that it has accepted when their server closes before they
        have a transport (seen on CPython 3.11, where Server._attach asserts that the server is open).
        """
        for sock, _ in self._sockets:
            asyncio.get_running_loop().remove_reader(sock)

    async def _live(self) -> AsyncIterator[None]:
        """Close every connection at the end; those at work have `close_timeout_s`."""
        await self._runner.setup()
        try:
            async with self._reaper:
                try:
                    yield
                finally:
                    await self._close_servers()
        finally:
            self._reaper.cut_all()
            await asyncio.sleep(0)  # what was cut is closed in the next turn of the loop
            if self._handshakes:
                await asyncio.wait(self._handshakes)
                await asyncio.sleep(0)

    async def _close_servers(self) -> None:
        self.stop_accepting()
        for _ in range(_TURNS_TO_ACCEPT):
            await asyncio.sleep(0)
        for server in self._servers:
            server.close()
        if self._runner.server is not None:
            self._runner.server.pre_shutdown()
            await self._runner.server.shutdown(self._limits.close_timeout_s)
        await self._runner.cleanup()

    def _connection(self) -> Connection:
        server = self._runner.server
        assert server is not None
        return Connection(server, self._reaper, self._limits)

    def _handshake(self) -> Handshake:
        assert self._tls is not None
        return Handshake(self._tls, self._connection, self._reaper, self._limits, self._handshakes)

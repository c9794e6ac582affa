"""The time before a TLS connection is one: accepted, counted and reaped like every other, and then handed over.

asyncio's own TLS servers tell nobody of a connection before its handshake is over, so that thousands could hang there.
Lives on the event loop.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import cast

from appliance.errors import LanternError
from appliance.server.connection import Register
from appliance.server.limits import ConnectionLimits


class Handshake(asyncio.Protocol):
    """One connection until its handshake is over or has failed."""

    def __init__(
        self,
        context: ssl.SSLContext,
        connection: Callable[[], asyncio.Protocol],
        register: Register,
        limits: ConnectionLimits,
        tasks: set[asyncio.Task[None]],
    ) -> None:
        """`connection` makes what takes over; the work is added to `tasks`, whose owner awaits it."""
        self.address = ""
        self._context = context
        self._connection = connection
        self._register = register
        self._limits = limits
        self._tasks = tasks
        self._socket: asyncio.Transport | None = None
        self._since_s = asyncio.get_running_loop().time()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Be counted, and begin."""
        self._socket = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        self.address = str(peer[0]) if peer else ""
        self._register.admit(self)  # where it is refused, that is said over the connection that is to come
        if self._socket.is_closing():
            return
        task = asyncio.create_task(self._shake_hands(self._socket))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @property
    def quiet_since_s(self) -> float:
        """It has asked for nothing yet."""
        return self._since_s

    def check(self, now_s: float) -> None:
        """End it where it takes too long."""
        if now_s - self._since_s > self._limits.head_timeout_s:
            self.cut()

    def end_with(self, _err: LanternError) -> None:
        """Nothing can be said before the handshake is over."""
        self.cut()

    def cut(self) -> None:
        """Close at once."""
        if self._socket is not None:
            self._socket.abort()

    async def _shake_hands(self, transport: asyncio.Transport) -> None:
        held = _Held()
        try:
            secure = await asyncio.get_running_loop().start_tls(
                transport,
                held,
                self._context,
                server_side=True,
                ssl_handshake_timeout=self._limits.head_timeout_s,
                ssl_shutdown_timeout=self._limits.lingering_s,
            )
        except OSError:  # ssl.SSLError is one, as are a client that left and one that took too long
            secure = None
        finally:
            self._register.forget(self)
            self._socket = None
        if secure is None:
            transport.abort()
            return
        held.hand_over(secure, self._connection())


class _Held(asyncio.Protocol):
    """Keeps what arrives between the end of the handshake and the moment when somebody takes over."""

    def __init__(self) -> None:
        self._data: list[bytes] = []
        self._is_lost = False

    def data_received(self, data: bytes) -> None:
        self._data.append(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_lost = True

    def hand_over(self, transport: asyncio.Transport, connection: asyncio.Protocol) -> None:
        """Go on with this protocol, as if it had been there from the beginning."""
        if self._is_lost:
            return
        transport.set_protocol(connection)
        connection.connection_made(transport)
        for data in self._data:
            connection.data_received(data)

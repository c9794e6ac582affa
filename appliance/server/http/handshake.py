"""Connections before their TLS handshake is over: accepted, counted and reaped like all others, then handed over.

asyncio's own TLS servers tell nobody of a connection before its handshake is over, so that thousands could hang there.
A client that speaks plain HTTP here is told so in plain HTTP. Lives on the event loop.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import cast

from appliance.errors import InvalidRequestError, LanternError
from appliance.server.http.connection import ConnectionLimits, Register
from appliance.server.http.errors import raw_answer

_HANDSHAKE = b"\x16"  # the content type of a record (RFC 8446, section 5.1)


class PlainHttpError(InvalidRequestError):
    """Not a handshake, on a port that takes nothing else."""

    code = "https_required"


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
        """Hand over to a protocol of `connection`; add the work to `tasks`, whose owner awaits it."""
        self.address = ""
        self._context = context
        self._connection = connection
        self._register = register
        self._limits = limits
        self._tasks = tasks
        self._socket: asyncio.Transport | None = None
        self._since_s = asyncio.get_running_loop().time()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count this connection, and begin."""
        self._socket = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        self.address = str(peer[0]) if peer else ""
        self._register.admit(self)  # a refusal is written to the connection that follows

    def data_received(self, data: bytes) -> None:
        """Begin with the first bytes; answer and close what is no handshake."""
        transport = self._socket
        if transport is None or transport.is_closing():
            return
        if not data.startswith(_HANDSHAKE):
            transport.write(raw_answer(PlainHttpError("This port speaks HTTPS; begin the URL with https://.")))
            transport.close()
            return
        transport.pause_reading()
        task = asyncio.create_task(self._shake_hands(transport, data))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop counting: it ended before a handshake began."""
        self._register.forget(self)
        self._socket = None

    @property
    def quiet_since_s(self) -> float:
        """The time of its arrival: it has asked for nothing yet."""
        return self._since_s

    def check(self, now_s: float) -> None:
        """End it if it takes too long."""
        if now_s - self._since_s > self._limits.head_timeout_s:
            self.cut()

    def end_with(self, _err: LanternError) -> None:
        """Close: no error can be written before the handshake is over."""
        self.cut()

    def cut(self) -> None:
        """Close at once."""
        if self._socket is not None:
            self._socket.abort()

    async def _shake_hands(self, transport: asyncio.Transport, first: bytes) -> None:
        held, loop = _Held(), asyncio.get_running_loop()
        start = loop.start_tls(
            transport,
            held,
            self._context,
            server_side=True,
            ssl_handshake_timeout=self._limits.head_timeout_s,
            ssl_shutdown_timeout=self._limits.lingering_s,
        )
        shaking = asyncio.ensure_future(start)
        try:
            await asyncio.sleep(0)  # start_tls has put its protocol in our place, to be told so in the next turn
            loop.call_soon(_feed, transport.get_protocol(), first)
            secure = await shaking
        except OSError:  # ssl.SSLError is one, as are a client that left and one that took too long
            secure = None
        finally:
            self._register.forget(self)
            self._socket = None
        if secure is None:
            transport.abort()
            return
        held.hand_over(secure, self._connection())


def _feed(protocol: asyncio.BaseProtocol, data: bytes) -> None:
    """Pass on to asyncio's TLS protocol the bytes that arrived before it."""
    while data and isinstance(protocol, asyncio.BufferedProtocol):
        buffer = memoryview(protocol.get_buffer(len(data)))
        num = min(len(buffer), len(data))
        buffer[:num] = data[:num]
        protocol.buffer_updated(num)
        data = data[num:]


class _Held(asyncio.Protocol):
    """A buffer for what arrives between the end of the handshake and the connection that takes over."""

    def __init__(self) -> None:
        self._data: list[bytes] = []
        self._is_lost = False

    def data_received(self, data: bytes) -> None:
        self._data.append(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_lost = True

    def hand_over(self, transport: asyncio.Transport, connection: asyncio.Protocol) -> None:
        """Continue with this protocol, as if it had been there from the beginning."""
        if self._is_lost:
            return
        transport.set_protocol(connection)
        connection.connection_made(transport)
        for data in self._data:
            connection.data_received(data)

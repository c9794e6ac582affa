"""One HTTP connection: aiohttp's handler, with deadlines, and with its refusals in OpenAI's form.

Lives on the event loop. Reads a few of RequestHandler's private attributes (aiohttp 3.14: `_waiter`, `_messages`,
`_request_count`, `_current_request`, `_request_handler`, `_manager`), since it offers no hook
between the first byte and the handler; tests/abuse/test_slow_connections.py fails when one of them changes.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Protocol, cast

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from appliance.errors import LanternError
from appliance.server.http.errors import raw_answer
from appliance.server.http.pipelined import by_request
from appliance.server.http.refusals import MAX_FIELD_BYTES, RequestTimeoutError, crowded, parser_refusal

_LOGGER = logging.getLogger(__name__)

_SILENT = logging.getLogger(f"{__name__}.access")  # log.py writes the one line of a request
_SILENT.disabled = True


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Caps and deadlines of connections. aiohttp 3.14 has none of its own but for idle ones.

    `max_waiting` connections beyond a cap are kept until their request arrives: then a silent connection gives way, or
    the answer is 503, so that no client sees a reset. Beyond those a 503 is written at once.
    """

    max_connections: int = 512
    max_per_address: int = 256
    max_waiting: int = 128
    head_timeout_s: float = 20.0
    body_idle_s: float = 15.0
    body_total_s: float = 300.0
    write_idle_s: float = 30.0
    keep_alive_s: float = 75.0
    lingering_s: float = 5.0
    reap_interval_s: float = 0.5
    close_timeout_s: float = 2.0


DEFAULT_LIMITS = ConnectionLimits()


class Counted(Protocol):
    """A connection that is counted, and ended when it takes too long."""

    address: str

    @property
    def quiet_since_s(self) -> float | None:
        """The time since when it has been silent; None while a request runs."""

    def check(self, now_s: float) -> None:
        """End it if it is overdue."""

    def end_with(self, err: LanternError) -> None:
        """Write the error, if that is possible, and close."""

    def cut(self) -> None:
        """Close at once."""


class Register(Protocol):
    """The count of all connections."""

    def admit(self, connection: Counted) -> bool:
        """Count a new connection; False if it is beyond a cap."""

    def admit_request(self, connection: Counted) -> bool:
        """Make room for a connection beyond a cap whose request has arrived; False if every other one is at work."""

    def forget(self, connection: Counted) -> None:
        """Stop counting a connection that was closed."""


class Connection(RequestHandler):
    """One connection; `check` is called now and then and ends what takes too long."""

    def __init__(self, server: web.Server, register: Register, limits: ConnectionLimits) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(
            server,
            loop=loop,
            access_log=_SILENT,
            keepalive_timeout=limits.keep_alive_s,
            lingering_time=limits.lingering_s,
            max_field_size=MAX_FIELD_BYTES,
            auto_decompress=False,  # guard.py refuses encoded bodies: a few bytes of gzip are gigabytes
        )
        self.address = ""
        self._register = register
        self._limits = limits
        self._now_s = loop.time
        self._socket: asyncio.Transport | None = None
        self._head_since_s: float | None = None
        self._last_byte_s = self._body_since_s = loop.time()
        self._num_unsent = 0
        self._unsent_since_s = loop.time()
        self._is_refused = False
        self._half_closed_s: float | None = None
        self._is_lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count this connection, and start its clocks."""
        self._socket = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        self.address = str(peer[0]) if peer else ""
        self._head_since_s = self._now_s()
        super().connection_made(transport)
        if not self._register.admit(self):
            self._request_handler = self._serve_late

    def connection_lost(self, exc: BaseException | None) -> None:
        """Stop counting this connection."""
        self._register.forget(self)
        self._socket = None
        self._is_lost.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse, and remember when a head began and ended; drop what comes behind a refusal."""
        if self._half_closed_s is not None:
            return
        was_waiting = self._is_waiting
        num_before = self._request_count
        self._last_byte_s = now_s = self._now_s()
        # aiohttp 3.14 forgets the good requests of the bytes that it parses with a broken one.
        begins = self._current_request is None and not self._messages
        for part in by_request(data) if begins else [data]:
            super().data_received(part)
        if self._request_count > num_before:
            self._head_since_s, self._body_since_s = None, now_s
        elif was_waiting and self._head_since_s is None:
            self._head_since_s = now_s

    @property
    def quiet_since_s(self) -> float | None:
        """The time since when it has been silent; None while a request runs."""
        if self._half_closed_s is not None:
            return self._half_closed_s
        if self._current_request is not None or self._messages:
            return None
        return self._head_since_s if self._head_since_s is not None else self._last_byte_s

    def check(self, now_s: float) -> None:
        """End a slow head, a stuck body, an answer that nobody reads, or a client that goes on after a refusal."""
        if self._socket is None:
            return
        request = self._current_request
        if self._is_unread(now_s):
            _LOGGER.info("the client at %s stopped reading; its connection is cut", self.address)
            self._socket.abort()
        elif self._half_closed_s is not None:
            if now_s - self._half_closed_s > self._limits.lingering_s:
                self.force_close()
        elif request is None and self._head_since_s is not None and not self._messages:
            if now_s - self._head_since_s > self._limits.head_timeout_s:
                self._socket.write(raw_answer(RequestTimeoutError("The head of the request did not arrive in time.")))
                self._half_close()
        elif request is not None and not request.content.is_eof() and self._body_is_overdue(now_s):
            self._is_refused = True
            request.content.set_exception(
                RequestTimeoutError("The body of the request did not arrive in time; nothing was done.")
            )

    def end_with(self, err: LanternError) -> None:
        """Write an error although no request was read, and close."""
        if self._socket is not None and self._half_closed_s is None and not self._socket.is_closing():
            self._socket.write(raw_answer(err))
        self.force_close()

    def cut(self) -> None:
        """Close at once; what is not sent is dropped."""
        if self._socket is not None:
            self._socket.abort()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what the parser refuses with the error object."""
        if request.writer.output_size > 0:
            raise ConnectionError("the response has begun")
        self._is_refused = True
        return parser_refusal(status, exc)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send the response; a refusal of aiohttp before our middlewares becomes the error object too."""
        if isinstance(resp, web.HTTPException):
            resp = self.handle_error(request, resp.status)
        finished = await super().finish_response(request, resp, start_time)
        if self._is_refused and self._socket is not None:
            self._half_close()
            await self._is_lost.wait()
        return finished

    def log_exception(self, *args: object, **kwargs: object) -> None:
        """Log our own faults with a traceback, and nothing that a client sent."""
        if not isinstance(kwargs.get("exc_info"), (web.RequestPayloadError, LanternError)):
            super().log_exception(*args, **kwargs)

    async def _serve_late(self, request: web.BaseRequest) -> web.StreamResponse:
        """Serve the first request of a connection beyond the caps, if a silent connection can give way to it."""
        if self._manager is None or not self._register.admit_request(self):
            self._is_refused = True
            return crowded()
        self._request_handler = self._manager.request_handler
        return await self._request_handler(request)

    def _half_close(self) -> None:
        """Close our side, and drop what comes until the client closes its own or time is up.

        If both sides were closed at once, a client that still sends would get a reset, which on many systems takes
        from it the answer that it has not read yet (RFC 9112, section 9.6). TLS has such an end of its own.
        """
        assert self._socket is not None
        self._half_closed_s = self._now_s()
        try:
            self._socket.write_eof()
        except (OSError, NotImplementedError):  # the client is gone already; asyncio's TLS cannot close one side
            self.force_close()

    @property
    def _is_waiting(self) -> bool:
        return self._waiter is not None and not self._waiter.done()

    def _body_is_overdue(self, now_s: float) -> bool:
        if self._buffer_paused:  # it is we who do not read
            return False
        since_last_s, since_head_s = now_s - self._last_byte_s, now_s - self._body_since_s
        return since_last_s > self._limits.body_idle_s or since_head_s > self._limits.body_total_s

    def _is_unread(self, now_s: float) -> bool:
        assert self._socket is not None
        num_unsent = _num_unsent(self._socket)
        if not num_unsent or num_unsent < self._num_unsent:
            self._unsent_since_s = now_s
        self._num_unsent = num_unsent
        return now_s - self._unsent_since_s > self._limits.write_idle_s


def _num_unsent(transport: asyncio.Transport) -> int:
    """Return the bytes that wait to be sent; 0 for TLS that was closed twice, which its own deadline ends."""
    try:
        return transport.get_write_buffer_size()
    except AttributeError:  # asyncio.sslproto: the second close() forgets the protocol, which it then asks
        return 0

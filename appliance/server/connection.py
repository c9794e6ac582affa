"""One HTTP connection: aiohttp's handler, with deadlines, and with its refusals in OpenAI's form.

Lives on the event loop. Reads a few of RequestHandler's private attributes (aiohttp 3.14: `_waiter`, `_messages`,
`_request_count`, `_current_request`, `_lingering_time`, `_request_handler`), since it offers no hook between the first
byte and the handler; tests/abuse/test_slow_connections.py fails when one of them changes.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from http import HTTPStatus
from typing import Protocol, cast

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from appliance.errors import InvalidRequestError, LanternError, UnavailableError
from appliance.server.app import BodyTooLargeError
from appliance.server.error_body import InternalError, error_body, error_headers
from appliance.server.limits import ConnectionLimits
from appliance.server.raw_answer import raw_answer

_LOGGER = logging.getLogger(__name__)

_SILENT = logging.getLogger(f"{__name__}.access")  # app.py writes the one line of a request
_SILENT.disabled = True


class RequestTimeoutError(InvalidRequestError):
    """The client did not send its request in time (RFC 9110, section 15.5.9)."""

    status = 408
    code = "request_timeout"


class Counted(Protocol):
    """What is counted, and ended when it takes too long."""

    address: str

    @property
    def quiet_since_s(self) -> float | None:
        """Since when it has asked for nothing that we work on; None while a request runs."""

    def check(self, now_s: float) -> None:
        """End what is overdue."""

    def end_with(self, err: LanternError) -> None:
        """Say why, where that is possible, and close."""

    def cut(self) -> None:
        """Close at once."""


class Register(Protocol):
    """Who counts the connections."""

    def admit(self, connection: Counted) -> bool:
        """Whether this connection is served; one that is not is told 503."""

    def forget(self, connection: Counted) -> None:
        """It is closed."""


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

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask whether this connection is served, and start its clocks."""
        self._socket = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        self.address = str(peer[0]) if peer else ""
        self._head_since_s = self._now_s()
        super().connection_made(transport)
        if not self._register.admit(self):
            self._request_handler = _refuse

    def connection_lost(self, exc: BaseException | None) -> None:
        """Stop being counted."""
        self._register.forget(self)
        self._socket = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse, and remember when a head began and ended."""
        was_waiting = self._is_waiting
        num_before = self._request_count
        self._last_byte_s = now_s = self._now_s()
        super().data_received(data)
        if self._request_count > num_before:
            self._head_since_s, self._body_since_s = None, now_s
        elif was_waiting and self._head_since_s is None:
            self._head_since_s = now_s

    @property
    def quiet_since_s(self) -> float | None:
        """Since when it has asked for nothing that we work on; None while a request runs."""
        if self._current_request is not None or self._messages:
            return None
        return self._head_since_s if self._head_since_s is not None else self._last_byte_s

    def check(self, now_s: float) -> None:
        """End what is overdue: a slow head, a stuck body, an answer that nobody reads."""
        if self._socket is None:
            return
        request = self._current_request
        if self._is_unread(now_s):
            _LOGGER.info("the client at %s stopped reading; its connection is cut", self.address)
            self._socket.abort()
        elif request is None and self._head_since_s is not None and not self._messages:
            if now_s - self._head_since_s > self._limits.head_timeout_s:
                self.end_with(RequestTimeoutError("The head of the request did not arrive in time."))
        elif request is not None and not request.content.is_eof() and self._body_is_overdue(now_s):
            self._lingering_time = 0.0  # what is still to come will not come
            request.content.set_exception(
                RequestTimeoutError("The body of the request did not arrive in time; nothing was done.")
            )

    def end_with(self, err: LanternError) -> None:
        """Write an error where no request was read, and close."""
        if self._socket is not None and not self._socket.is_closing():
            self._socket.write(raw_answer(err))
        self.force_close()

    def cut(self) -> None:
        """Close at once, dropping what is not sent."""
        if self._socket is not None:
            self._socket.abort()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What the parser refuses, as the error object."""
        if request.writer.output_size > 0:
            raise ConnectionError("the response has begun")
        request_id = f"req_{uuid.uuid4().hex}"
        if status >= 500:
            _LOGGER.error("%s failed below the application", request_id, exc_info=exc)
            body = error_body(InternalError.of(request_id))
        elif status == 413:
            body = error_body(BodyTooLargeError("The request is too large."))
        elif status == HTTPStatus.EXPECTATION_FAILED:
            body = error_body(
                InvalidRequestError("The only expectation that is met is 100-continue.", code="bad_expect")
            )
        else:
            _LOGGER.info("%s malformed HTTP, answered %d", request_id, status)
            body = error_body(InvalidRequestError("The request is not valid HTTP/1.1.", code="malformed_request"))
        response = web.json_response(body, status=status, headers={"x-request-id": request_id})
        response.force_close()
        return response

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send it; what aiohttp refuses before our middlewares leaves as the error object too."""
        if isinstance(resp, web.HTTPException):
            resp = self.handle_error(request, resp.status)
        return await super().finish_response(request, resp, start_time)

    def log_exception(self, *args: object, **kwargs: object) -> None:
        """Log with a traceback what is our fault, and nothing that a client sent."""
        if not isinstance(kwargs.get("exc_info"), (web.RequestPayloadError, LanternError)):
            super().log_exception(*args, **kwargs)

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
        num_unsent = self._socket.get_write_buffer_size()
        if not num_unsent or num_unsent < self._num_unsent:
            self._unsent_since_s = now_s
        self._num_unsent = num_unsent
        return now_s - self._unsent_since_s > self._limits.write_idle_s


async def _refuse(_request: web.BaseRequest) -> web.StreamResponse:
    """The answer on a connection beyond the caps."""
    err = too_many_connections()
    headers = {"x-request-id": f"req_{uuid.uuid4().hex}", **error_headers(err)}
    response = web.json_response(error_body(err), status=err.status, headers=headers)
    response.force_close()
    return response


def too_many_connections() -> UnavailableError:
    """What a connection beyond the caps is told."""
    return UnavailableError("The server has as many connections as it takes; close idle ones, or try again later.")

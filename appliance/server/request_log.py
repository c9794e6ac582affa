"""The one line that a request leaves in the log, and what it adds to the counters."""

from __future__ import annotations

import logging
import time
from http import HTTPStatus

from aiohttp import web

from appliance.server.context import REQUEST_ID
from appliance.server.record import RequestRecord

_LOGGER = logging.getLogger("appliance.request")

_ASKED_ALL_DAY = {"/health", "/ready", "/metrics"}  # by monitors, whose lines would bury the others


def log_end(request: web.Request, record: RequestRecord, outcome: int | str) -> None:
    """Count a request that is over, and write its line; `outcome` is the status, or that the client left."""
    resource = request.match_info.route.resource
    route = resource.canonical if resource is not None else "other"
    record.metrics.requests.labels(route, str(outcome)).inc()
    record.metrics.duration_s.labels(route).observe(time.monotonic() - record.started_s)
    fields = {"request": request[REQUEST_ID], "peer": request.remote, "status": outcome, **record.fields()}
    level = logging.DEBUG if route in _ASKED_ALL_DAY and outcome == HTTPStatus.OK else logging.INFO
    _LOGGER.log(level, "%s %s", printable(request.method), printable(request.path), extra={"fields": fields})


def printable(text: str) -> str:
    """Client text for a log line or a message: short, control characters escaped."""
    return text[:200].encode("unicode_escape").decode("ascii")

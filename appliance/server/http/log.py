"""The one line of a request in the log, and its counts in the metrics."""

from __future__ import annotations

import logging
import time
from http import HTTPStatus

from aiohttp import web

from appliance.server.http.record import REQUEST_ID, RequestRecord
from appliance.server.http.request_log import RequestLog
from appliance.server.http.routing import Access, route_of

_LOGGER = logging.getLogger("appliance.request")


def log_end(request: web.Request, record: RequestRecord, outcome: int | str, requests: RequestLog) -> None:
    """Count a finished request, write its line and remember it; `outcome` is the status, or "cancelled".

    Successful polls and files of the page are not remembered, since they would displace the others.
    """
    route = route_of(request)
    label = route.template if route is not None else "other"
    record.metrics.requests.labels(label, str(outcome)).inc()
    record.metrics.duration_s.labels(label).observe(time.monotonic() - record.started_s)
    fields = {"request": request[REQUEST_ID], "peer": request.remote, "status": outcome, **record.fields()}
    is_poll = route is not None and route.is_polled and outcome == HTTPStatus.OK  # their lines would bury the others
    is_file = route is not None and route.access is Access.OPEN and outcome in {HTTPStatus.OK, HTTPStatus.NOT_MODIFIED}
    if not (is_poll or is_file):
        peer = request.remote or ""
        told = {"method": printable(request.method), "route": label, "status": str(outcome), "peer": peer}
        requests.add(record, request[REQUEST_ID], **told)
    level = logging.DEBUG if is_poll else logging.INFO
    _LOGGER.log(level, "%s %s", printable(request.method), printable(request.path), extra={"fields": fields})


def log_background(request_id: str, record: RequestRecord, outcome: str) -> None:
    """Write the line of a response that was made in the background, at its end; its request has one of its own."""
    fields = {"request": request_id, "status": outcome, **record.fields()}
    _LOGGER.info("a response in the background ended", extra={"fields": fields})


def printable(text: str) -> str:
    """Shorten a client's text and escape its control characters, for a log line or a message."""
    return text[:200].encode("unicode_escape").decode("ascii")

"""GET /admin/status: the state of the device in one small answer, with its last ten minutes; nothing is measured here.

The history has a list for each quantity, so that a page that polls with `since` gets a few numbers more each time.
"""

from __future__ import annotations

from dataclasses import asdict

from aiohttp import web

from appliance import __version__
from appliance.errors import InvalidRequestError
from appliance.identity.own_identity import OwnIdentity
from appliance.install.overview import Memory, Storage
from appliance.server.context import CONTEXT, State
from appliance.server.http.routing import Access, Routes, in_query
from appliance.server.http.wire import Answer
from appliance.server.state.history import History

ROUTES = Routes()

_SECONDS = r"^\d{1,9}(\.\d{1,6})?$"
_SINCE = in_query("since", "Only samples after this time, as `history.at_s` counts it.", _SECONDS)
_MAX_CHARS = 16


class ServedCertificateInfo(Answer):
    """The certificate of HTTPS: its SHA-256 as browsers show it, and the pin of its key."""

    fingerprint: str
    pin: str


class Heat(Answer):
    """The temperature of the board, null without a sensor, and what holds it back."""

    temperature_c: float | None
    throttled: bool
    under_voltage: bool


class HistoryColumns(Answer):
    """Samples as lists of one length, the oldest first; `at_s` counts from the start of the server."""

    interval_s: float
    at_s: list[float]
    prompt_tokens_per_s: list[float]
    generated_tokens_per_s: list[float]
    running: list[int]
    waiting: list[int]
    slots: list[int]
    processor_percent: list[float]
    memory_free_bytes: list[int]
    models_bytes: list[int]
    temperature_c: list[float | None]
    throttled: list[bool]


class DeviceStatus(Answer):
    """The state of a device, and its last minutes. `started` is the time of its start, in seconds since 1970."""

    status: State
    version: str
    name: str
    started: int
    faults: list[str]
    certificate: ServedCertificateInfo | None
    memory: Memory | None
    storage: Storage | None
    heat: Heat
    engines: dict[str, dict[str, int]]
    history: HistoryColumns


@ROUTES.get(
    "/admin/status",
    access=Access.ADMINISTRATION,
    operation="getStatus",
    summary="The state of the device, with the last ten minutes",
    answer=DeviceStatus,
    parameters=(_SINCE,),
    is_polled=True,
)
async def show_status(request: web.Request) -> web.Response:
    """Return the state, and the samples after `since`."""
    context = request.app[CONTEXT]
    since_s = _since(request.query.get("since"))
    last, thermal = context.history.last, context.thermal()
    memory: Memory | None = None
    storage: Storage | None = None
    if last is not None:
        memory = {
            "free_bytes": last.memory_free_bytes,
            "total_bytes": last.memory_total_bytes,
            "models_bytes": last.models_bytes,
        }
        storage = {"free_bytes": last.storage_free_bytes, "total_bytes": last.storage_total_bytes}
    body: DeviceStatus = {
        "status": context.state,
        "version": __version__,
        "name": context.identity.host,
        "started": context.started_s,
        "faults": context.all_faults(),
        "certificate": _certificate(context.identity),
        "memory": memory,
        "storage": storage,
        "heat": {
            "temperature_c": thermal.temperature_c,
            "throttled": thermal.is_throttled,
            "under_voltage": thermal.is_under_voltage,
        },
        "engines": {
            model.bundle.name: asdict(stats)
            for model in context.pool.loaded()
            if (stats := model.thread.stats()) is not None
        },
        "history": _columns(context.history, since_s),
    }
    return web.json_response(body)


def _since(text: str | None) -> float:
    if text is None:
        return -1.0
    if len(text) > _MAX_CHARS or not text.replace(".", "", 1).isascii() or not text.replace(".", "", 1).isdigit():
        raise InvalidRequestError("since is not a number of seconds.", param="since", code="invalid_value")
    return float(text)


def _certificate(identity: OwnIdentity) -> ServedCertificateInfo | None:
    found = identity.fingerprints()
    return {"fingerprint": found.certificate, "pin": found.pin} if found is not None else None


def _columns(history: History, since_s: float) -> HistoryColumns:
    samples = list(history.since(since_s))
    return {
        "interval_s": history.interval_s,
        "at_s": [s.at_s for s in samples],
        "prompt_tokens_per_s": [s.prompt_tokens_per_s for s in samples],
        "generated_tokens_per_s": [s.generated_tokens_per_s for s in samples],
        "running": [s.num_running for s in samples],
        "waiting": [s.num_waiting for s in samples],
        "slots": [s.num_slots for s in samples],
        "processor_percent": [s.processor_percent for s in samples],
        "memory_free_bytes": [s.memory_free_bytes for s in samples],
        "models_bytes": [s.models_bytes for s in samples],
        "temperature_c": [s.temperature_c for s in samples],
        "throttled": [s.is_throttled for s in samples],
    }

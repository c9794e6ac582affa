"""A server whose answers are prepared, what commands expect of it, and changes to that."""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from hypothesis import strategies as st

Json = Any
Routes = dict[str, Json]

OVERVIEW = {
    "models": [
        {
            "name": "tiny",
            "digest": "0123456789abcdef",
            "versions": ["0123456789abcdef"],
            "kind": "decoder",
            "size_bytes": 1_000_000,
            "signer": "abc",
            "quality": {"metrics": {"ppl": 9.5}, "kl_here": 0.01, "text": None},
            "built_for": "any",
            "is_built_for_here": True,
            "loaded": True,
            "aliases": ["gpt"],
            "problem": None,
        }
    ],
    "storage": {"free_bytes": 1 << 30},
    "memory": {"free_bytes": 1 << 30},
}
REQUEST = {
    "at": 1_700_000_000,
    "method": "GET",
    "route": "/health",
    "status": "200",
    "duration_ms": 3,
    "key": "k1",
    "peer": "10.0.0.9",
    "prompt_tokens": 5,
    "generated_tokens": 7,
}
KEY = {"id": "k1", "name": "anna", "role": "inference", "rate": None, "created": 1_700_000_000}
UPDATE = {"object": "update", "running": "0.2.0", "step": "done", "version": "0.2.0", "detail": "", "received": 0}
CHUNK = {"choices": [{"delta": {"content": "Hi"}}], "usage": {"prompt_tokens": 3, "completion_tokens": 5}}
MODELS = {"object": "list", "data": [{"id": "tiny", "kind": "decoder"}]}
HEALTH = {"status": "ok", "engines": {"tiny": {"num_running": 1, "num_waiting": 0}}}
PIECE = {"name": "a", "size_bytes": 8, "received": 4}
BEGUN = {"state": "uploading", "id": "u1", "name": "tiny", "files": [{"name": "a", "size_bytes": 8, "received": 4}]}
_WRONG = [None, True, -1, 0, 1.5, 1e308, 10**30, 10**4000, "", "x", "\ud800", "\x1b[2J", [], [None], {}, {"a": 1}]

COMMANDS: dict[str, Routes] = {
    "models list": {"GET /admin/models": OVERVIEW},
    "models list --json": {"GET /admin/models": OVERVIEW},
    "models load tiny": {"POST /admin/models/tiny/load": OVERVIEW},
    "models rollback tiny": {"POST /admin/models/tiny/rollback": OVERVIEW},
    "models remove tiny": {"DELETE /admin/models/tiny": OVERVIEW},
    "models alias": {"GET /admin/aliases": {"aliases": {"gpt": "tiny"}}},
    "models trust": {"GET /admin/trust": {"trusted": ["abc"]}},
    "models trust KEY": {"POST /admin/trust": {"trusted": ["abc"], "added": "abc"}},
    "keys list": {"GET /admin/keys": {"keys": [KEY]}},
    "keys create anna": {"POST /admin/keys": {**KEY, "key": "sk-1"}},
    "requests": {"GET /admin/requests": {"requests": [REQUEST]}, "GET /admin/keys": {"keys": [KEY]}},
    "requests --json": {"GET /admin/requests": {"requests": [REQUEST]}, "GET /admin/keys": {"keys": [KEY]}},
    "safe-mode": {"GET /admin/safe-mode": {"active": True}},
    "restart": {"POST /admin/restart": {"restarting": True}},
    "claim": {"POST /admin/claim": {"id": "k", "name": "anna", "role": "administration", "key": "sk-1"}},
    "update show": {"GET /admin/update": UPDATE},
    "chat --stats Hello": {"GET /v1/models": MODELS, "POST /v1/chat/completions": CHUNK},
}


@dataclass
class Foreign:
    """A server that gives prepared answers; a chunk of a chat is one event of a stream."""

    address: str
    routes: Routes = field(default_factory=dict)


@pytest.fixture(scope="module")
def foreign() -> Iterator[Foreign]:
    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            route = f"{self.command} {self.path}"
            body = json.dumps(running.routes.get(route, {"error": {"message": f"no {route}"}})).encode()
            is_stream = self.path.endswith("/chat/completions")
            if is_stream:
                body = b"data: " + body + b"\n\ndata: [DONE]\n\n"
            self.send_response(200 if route in running.routes else 404)
            self.send_header("Content-Type", "text/event-stream" if is_stream else "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_DELETE = _answer  # noqa: N815 - as the library calls them

        def log_message(self, *_: object) -> None:
            """Keep silent."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        running = Foreign(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield running
        server.shutdown()
        thread.join()


def _paths(value: Json) -> Iterator[tuple[str | int, ...]]:
    """Yield the way to each part of a JSON value, the whole one first."""
    yield ()
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, part in parts:
        yield from ((name, *rest) for rest in _paths(part))


def changed(value: Json, path: tuple[str | int, ...], act: str, by: Json) -> Json:
    """Return the value with one part dropped, renamed or replaced."""
    if not path:
        return by
    whole = copy.deepcopy(value)
    holder = whole
    for step in path[:-1]:
        holder = holder[step]
    part = holder.pop(path[-1])
    match act:
        case "rename" if isinstance(holder, dict):
            holder[f"{path[-1]}_new"] = part
        case "replace" if isinstance(holder, dict):
            holder[path[-1]] = by
        case "replace":
            holder.insert(path[-1], by)
    return whole


def changes(routes: Routes) -> st.SearchStrategy[Routes]:
    """Return a strategy for the same answers with a part of one changed."""
    places = [(route, path) for route, answer in routes.items() for path in _paths(answer)]
    return st.builds(
        lambda place, act, by: {**routes, place[0]: changed(routes[place[0]], place[1], act, by)},
        st.sampled_from(places),
        st.sampled_from(["drop", "rename", "replace", "replace"]),
        st.sampled_from(_WRONG),
    )

"""Commands against servers whose answers are not what this version expects: one sentence, and never a traceback."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import io
import json
import threading
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.__main__ import main
from appliance.bench.client import OpenAIClient
from appliance.bench.errors import BenchError, RefusalError
from appliance.errors import BundleError, DeviceError
from appliance.install import overview
from appliance.remote import answers
from appliance.remote.answers import INSTALLATION, AnswerType
from appliance.remote.bundle_reader import BundleReader
from appliance.remote.probe import Probe, probe
from appliance.remote.push import push
from appliance.server.admin import aliases, claim, device, keys, pieces, safe_mode, trust, update, uploads
from tests.install.tiny_bundles import TinyDevice

Json = Any
Routes = dict[str, Json]

_OVERVIEW = {
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
_REQUEST = {
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
_KEY = {"id": "k1", "name": "anna", "role": "inference", "rate": None, "created": 1_700_000_000}
_UPDATE = {"object": "update", "running": "0.2.0", "step": "done", "version": "0.2.0", "detail": "", "received": 0}
_CHUNK = {"choices": [{"delta": {"content": "Hi"}}], "usage": {"prompt_tokens": 3, "completion_tokens": 5}}
_MODELS = {"object": "list", "data": [{"id": "tiny", "kind": "decoder"}]}
_HEALTH = {"status": "ok", "engines": {"tiny": {"num_running": 1, "num_waiting": 0}}}
_PIECE = {"name": "a", "size_bytes": 8, "received": 4}
_BEGUN = {"state": "uploading", "id": "u1", "name": "tiny", "files": [{"name": "a", "size_bytes": 8, "received": 4}]}
_WRONG = [None, True, -1, 0, 1.5, 1e308, 10**30, 10**4000, "", "x", "\ud800", "\x1b[2J", [], [None], {}, {"a": 1}]

COMMANDS: dict[str, Routes] = {
    "models list": {"GET /admin/models": _OVERVIEW},
    "models list --json": {"GET /admin/models": _OVERVIEW},
    "models load tiny": {"POST /admin/models/tiny/load": _OVERVIEW},
    "models rollback tiny": {"POST /admin/models/tiny/rollback": _OVERVIEW},
    "models remove tiny": {"DELETE /admin/models/tiny": _OVERVIEW},
    "models alias": {"GET /admin/aliases": {"aliases": {"gpt": "tiny"}}},
    "models trust": {"GET /admin/trust": {"trusted": ["abc"]}},
    "models trust KEY": {"POST /admin/trust": {"trusted": ["abc"], "added": "abc"}},
    "keys list": {"GET /admin/keys": {"keys": [_KEY]}},
    "keys create anna": {"POST /admin/keys": {**_KEY, "key": "sk-1"}},
    "requests": {"GET /admin/requests": {"requests": [_REQUEST]}, "GET /admin/keys": {"keys": [_KEY]}},
    "requests --json": {"GET /admin/requests": {"requests": [_REQUEST]}, "GET /admin/keys": {"keys": [_KEY]}},
    "safe-mode": {"GET /admin/safe-mode": {"active": True}},
    "restart": {"POST /admin/restart": {"restarting": True}},
    "claim": {"POST /admin/claim": {"id": "k", "name": "anna", "role": "administration", "key": "sk-1"}},
    "update show": {"GET /admin/update": _UPDATE},
    "chat --stats Hello": {"GET /v1/models": _MODELS, "POST /v1/chat/completions": _CHUNK},
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


@pytest.fixture
def run(
    foreign: Foreign, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform_keyring: object
) -> Callable[[str], tuple[int, str]]:
    """Run a command on the foreign server, and return its exit code and what it says on standard error."""
    monkeypatch.setenv("LANTERN_HOME", str(tmp_path / "home"))
    (tmp_path / "key.pem").write_bytes(b"a key")

    def run_command(command: str) -> tuple[int, str]:
        verb, *rest = (str(tmp_path / "key.pem") if word == "KEY" else word for word in command.split())
        is_group = verb in {"models", "keys", "update"}
        words = (
            [verb, rest[0], "--device", foreign.address, *rest[1:]]
            if is_group
            else [verb, "--device", foreign.address, *rest]
        )
        said = io.StringIO()
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO(), "utf-8")):
            return main(words), said.getvalue()

    return run_command


def _paths(value: Json) -> Iterator[tuple[str | int, ...]]:
    """Yield the way to each part of a JSON value, the whole one first."""
    yield ()
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, part in parts:
        yield from ((name, *rest) for rest in _paths(part))


def _changed(value: Json, path: tuple[str | int, ...], act: str, by: Json) -> Json:
    """Return the value with one part dropped, renamed or replaced."""
    if not path:
        return by
    changed = copy.deepcopy(value)
    holder = changed
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
    return changed


def changes(routes: Routes) -> st.SearchStrategy[Routes]:
    """Return a strategy for the same answers with a part of one changed."""
    places = [(route, path) for route, answer in routes.items() for path in _paths(answer)]
    return st.builds(
        lambda place, act, by: {**routes, place[0]: _changed(routes[place[0]], place[1], act, by)},
        st.sampled_from(places),
        st.sampled_from(["drop", "rename", "replace", "replace"]),
        st.sampled_from(_WRONG),
    )


_FEW = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_takes_the_answers_that_it_expects(
    command: str, foreign: Foreign, run: Callable[[str], tuple[int, str]]
) -> None:
    foreign.routes = COMMANDS[command]
    code, said = run(command)
    assert code == 0, said


@pytest.mark.parametrize("command", COMMANDS)
@given(data=st.data())
@_FEW
def test_a_command_ends_with_one_sentence_whatever_is_answered(
    command: str, foreign: Foreign, run: Callable[[str], tuple[int, str]], data: st.DataObject
) -> None:
    foreign.routes = data.draw(changes(COMMANDS[command]))
    code, said = run(command)
    if code != 0:
        assert said.startswith("lantern: ")
        assert said.count("\n") == 1
        assert said.strip().isprintable()


@pytest.mark.parametrize(
    ("path", "by", "why"),
    [
        (("models", 0, "name"), "drop", "without the field 'models[0].name'"),
        (("models", 0, "loaded"), 1, "with the field 'models[0].loaded' wrong"),
        ((), [], "without an object"),
    ],
)
def test_the_sentence_names_the_field_and_the_device(
    path: tuple[str | int, ...], by: Json, why: str, foreign: Foreign, run: Callable[[str], tuple[int, str]]
) -> None:
    answer = _changed(_OVERVIEW, path, "drop" if by == "drop" else "replace", by)
    foreign.routes = {"GET /admin/models": answer}
    code, said = run("models list")
    assert code == DeviceError.exit_code
    assert said.startswith(f"lantern: {foreign.address} answered GET /admin/models {why}")


class _Source:
    """Eight bytes to upload."""

    path = "/admin/uploads"

    def opening(self) -> dict[str, object]:
        return {}

    def piece(self, _name: str, offset: int, size_bytes: int) -> bytes:
        return bytes(8)[offset : offset + size_bytes]


_UPLOAD: Routes = {
    "POST /admin/uploads": _BEGUN,
    "PUT /admin/uploads/u1/files/a": {**_PIECE, "received": 8},
    "POST /admin/uploads/u1/install": {**_OVERVIEW, "state": "installed", "installed": "tiny"},
}


@given(routes=changes(_UPLOAD) | st.just(_UPLOAD))
@_FEW
def test_an_upload_ends_whatever_is_answered(foreign: Foreign, routes: Routes) -> None:
    async def send() -> None:
        async with aiohttp.ClientSession(foreign.address) as session:
            await push(session, _Source(), INSTALLATION, num_tries=2, pause_s=0.001)

    foreign.routes = routes
    with contextlib.suppress(DeviceError):
        asyncio.run(asyncio.wait_for(send(), 60))


def test_a_piece_that_does_not_arrive_is_not_sent_for_ever(foreign: Foreign) -> None:
    async def send() -> None:
        async with aiohttp.ClientSession(foreign.address) as session:
            await push(session, _Source(), INSTALLATION)

    foreign.routes = {**_UPLOAD, "PUT /admin/uploads/u1/files/a": _PIECE}
    with pytest.raises(DeviceError, match="it has 4 bytes after a piece at 4"):
        asyncio.run(send())


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "manifest.json.bak", ""])
def test_a_device_gets_no_other_file_than_the_bundles(name: str, tmp_path: Path) -> None:
    made = TinyDevice(tmp_path).make(4)
    (made.parent / "secret").write_bytes(b"mine")
    with contextlib.closing(BundleReader(made)) as reader, pytest.raises(BundleError, match="no file of the bundle"):
        reader.piece(name, 0, 4)


@given(routes=changes({"GET /health": _HEALTH, "GET /v1/models": _MODELS}))
@_FEW
def test_a_probe_is_an_answer_whatever_comes(foreign: Foreign, routes: Routes) -> None:
    foreign.routes = routes
    answer = asyncio.run(probe(f"{foreign.address}/v1", timeout_s=60.0))
    assert isinstance(answer, Probe)
    assert all(isinstance(model, str) for model in answer.models or ())
    assert str(answer.num_running) != "-1"
    assert answer.state.isprintable()


@given(
    routes=changes(
        {"GET /v1/models": _MODELS, "POST /v1/chat/completions": _CHUNK, "POST /v1/embeddings": {"data": [{}]}}
    )
)
@_FEW
def test_a_measured_server_is_refused_or_counted_whatever_comes(foreign: Foreign, routes: Routes) -> None:
    async def measure() -> None:
        async with OpenAIClient(foreign.address) as client:
            assert all(isinstance(model, str) for model in await client.model_ids())
            assert await client.embed("tiny", ["light"]) >= 0
            answer = await client.chat("tiny", [])
            assert (answer.num_prompt_tokens or 0) + answer.num_tokens >= 0
            assert isinstance(answer.text, str)

    foreign.routes = routes
    with contextlib.suppress(BenchError, RefusalError):
        asyncio.run(measure())


@pytest.mark.parametrize(
    ("read", "sent"),
    [
        (answers.OVERVIEW, overview.Overview),
        (answers.INSTALLATION, uploads.Installed),
        (answers.ALIASES, aliases.AliasMap),
        (answers.TRUSTED, trust.TrustedKeyList),
        (answers.SAFE_MODE, safe_mode.SafeMode),
        (answers.REQUESTS, device.RequestList),
        (answers.KEYS, keys.ApiKeyList),
        (answers.SECRET, keys.NewApiKey),
        (answers.SECRET, claim.ClaimedKey),
        (answers.UPDATE, update.UpdateState),
        (answers.UPLOAD, pieces.UploadState),
        (answers.PIECE, pieces.UploadedFile),
        (answers.PIECE, update.UpdatePiece),
    ],
)
def test_what_is_read_is_what_the_server_declares(read: AnswerType[Any], sent: Any) -> None:
    """Every field that is required here is always sent; one that may be absent here is declared there."""
    _compare(read.declared, sent)


def _compare(read: Any, sent: Any) -> None:
    assert read.__required_keys__ <= sent.__required_keys__
    assert read.__optional_keys__ <= sent.__required_keys__ | sent.__optional_keys__
    there = typing.get_type_hints(sent)
    for name, hint in typing.get_type_hints(read).items():
        inner, sent_inner = (_object_in(side) for side in (hint, there[name]))
        assert (inner is None) == (sent_inner is None)
        if inner is not None:
            _compare(inner, sent_inner)


def _object_in(hint: Any) -> Any:
    """Return the declared object in a hint, or in its list; None if it holds plain values."""
    if hasattr(hint, "__required_keys__"):
        return hint
    found = (_object_in(part) for part in typing.get_args(hint))
    return next((one for one in found if one is not None), None)

"""Commands against servers whose answers are not what this version expects: one sentence, and never a traceback."""

from __future__ import annotations

import asyncio
import contextlib
import io
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.__main__ import main
from appliance.access import key_info
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
from tests.remote.foreign import (
    BEGUN,
    CHUNK,
    COMMANDS,
    HEALTH,
    MODELS,
    OVERVIEW,
    PIECE,
    Foreign,
    Json,
    Routes,
    changed,
    changes,
    foreign,
)

__all__ = ["foreign"]


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
    answer = changed(OVERVIEW, path, "drop" if by == "drop" else "replace", by)
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
    "POST /admin/uploads": BEGUN,
    "PUT /admin/uploads/u1/files/a": {**PIECE, "received": 8},
    "POST /admin/uploads/u1/install": {**OVERVIEW, "state": "installed", "installed": "tiny"},
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

    foreign.routes = {**_UPLOAD, "PUT /admin/uploads/u1/files/a": PIECE}
    with pytest.raises(DeviceError, match="it has 4 bytes after a piece at 4"):
        asyncio.run(send())


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "manifest.json.bak", ""])
def test_a_device_gets_no_other_file_than_the_bundles(name: str, tmp_path: Path) -> None:
    made = TinyDevice(tmp_path).make(4)
    (made.parent / "secret").write_bytes(b"mine")
    with contextlib.closing(BundleReader(made)) as reader, pytest.raises(BundleError, match="no file of the bundle"):
        reader.piece(name, 0, 4)


@given(routes=changes({"GET /health": HEALTH, "GET /v1/models": MODELS}))
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
        {"GET /v1/models": MODELS, "POST /v1/chat/completions": CHUNK, "POST /v1/embeddings": {"data": [{}]}}
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
        (answers.SECRET, key_info.NewApiKey),
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

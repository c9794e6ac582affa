"""Commands for what the page can do: load and unload a model, show the last requests, restart."""

from __future__ import annotations

import json
from pathlib import Path

import httpx2
import pytest

from appliance.home import Home
from tests.bundle.workshop import install_untried
from tests.cli.test_models_command import KEY, done, lantern
from tests.conftest import RunningServer, a_config, serving
from tests.install.tiny_bundles import TinyDevice
from tests.server.admin.clients import KEY as DEVICE_KEY
from tests.server.console.processes import served_by_a_process

pytestmark = pytest.mark.slow


def test_a_model_is_loaded_and_unloaded_by_command(tmp_path: Path) -> None:
    device = TinyDevice(tmp_path)
    install_untried(device.store, device.make())
    home = Home(device.root / "home")
    with serving(a_config(server={"keys": [KEY]}), home):
        assert " loaded" in done(home, "models", "load", "tiny")
        assert json.loads(done(home, "models", "list", "--json"))["models"][0]["loaded"]
        assert " installed" in done(home, "models", "unload", "tiny")
        assert not json.loads(done(home, "models", "list", "--json"))["models"][0]["loaded"]
        refused = lantern(home, "models", "load", "none")
        assert refused.returncode != 0
        assert "none" in refused.stderr


def test_the_last_requests_are_shown_with_the_names_of_their_keys(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with serving(a_config(server={"keys": [KEY]}), home) as server:
        httpx2.get(f"{server.root_url}/v1/models", headers={"authorization": f"Bearer {KEY}"})
        told = done(home, "requests")
        assert "GET /v1/models" in told
        assert "127.0.0.1" in told
        listed = json.loads(done(home, "requests", "--json"))
        assert "/v1/models" in {one["route"] for one in listed}


@pytest.mark.parametrize("command", [("restart",), ("requests",), ("models", "load", "x")])
def test_without_a_server_they_say_so(tmp_path: Path, command: tuple[str, ...]) -> None:
    refused = lantern(Home(tmp_path), *command)
    assert refused.returncode != 0
    assert "No server runs on this machine" in refused.stderr


def test_a_restart_by_command_is_a_new_start(tmp_path: Path) -> None:
    with served_by_a_process(tmp_path) as server:
        before = _started(server)
        assert "restarts" in done(Home(tmp_path / "home"), "restart")
        while _started(server) in {before, None}:
            pass


def _started(server: RunningServer) -> float | None:
    """Return when the device started; None while it cannot be reached."""
    headers = {"authorization": f"Bearer {DEVICE_KEY}"}
    try:
        answer = httpx2.get(f"{server.root_url}/admin/status", headers=headers)
    except httpx2.TransportError:
        return None
    return float(answer.json()["started"]) if answer.status_code == 200 else None

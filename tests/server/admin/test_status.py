"""State and history of a device, its request log, diagnosis, QR codes, uses of keys, and restart."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
import segno

from appliance.home import Home
from appliance.host.thermal import Thermal
from appliance.server.http.metrics import Metrics
from appliance.server.state.history import History
from appliance.service.composition import Parts, compose
from appliance.service.recorder import Recorder
from tests.bundle.workshop import install_untried
from tests.conftest import a_config
from tests.install.tiny_bundles import TinyDevice
from tests.server.admin.clients import KEY, Administrator, administered, error_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def admin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Administrator]:
    device = TinyDevice(tmp_path_factory.mktemp("device"))
    install_untried(device.store, device.make())
    with administered(device) as administrator:
        yield administrator


def test_the_status_tells_state_memory_and_a_history_of_equal_columns(admin: Administrator) -> None:
    told = admin.ask("GET", "/admin/status").json()
    assert told["status"] == "ok"
    assert re.fullmatch(r"lantern-[0-9a-f]{8}\.local", told["name"])
    assert 0 < told["memory"]["free_bytes"] < told["memory"]["total_bytes"]
    assert 0 < told["storage"]["free_bytes"] <= told["storage"]["total_bytes"]
    assert told["memory"]["models_bytes"] > 0
    history = told["history"]
    assert history.pop("interval_s") == 2.0
    assert {len(column) for column in history.values()} == {len(history["at_s"])}
    assert history["at_s"] == sorted(history["at_s"])


def test_a_poll_gets_only_what_is_new(admin: Administrator) -> None:
    all_of_it = admin.ask("GET", "/admin/status").json()["history"]["at_s"]
    last = all_of_it[-1]
    new = admin.ask("GET", f"/admin/status?since={last}").json()["history"]["at_s"]
    assert all(at_s > last for at_s in new)
    assert len(new) < len(all_of_it)


@pytest.mark.parametrize("since", ["", "x", "-1", "1e9", "nan", "٣", "1.2.3", "9" * 20])
def test_a_time_that_is_none_is_refused(admin: Administrator, since: str) -> None:
    refused = admin.ask("GET", "/admin/status", params={"since": since})
    assert refused.status_code == 400
    assert error_of(refused)["param"] == "since"


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", path) for path in ("status", "requests", "doctor", "devices", "models/tiny/report")]
    + [("POST", path) for path in ("restart", "qr", "models/tiny/load", "models/tiny/unload")],
)
def test_without_a_key_for_administration_nothing_is_told(admin: Administrator, method: str, path: str) -> None:
    stranger = Administrator(admin.server, key="sk-nobody")
    assert stranger.ask(method, f"/admin/{path}", {} if method == "POST" else None).status_code == 401


def test_the_recorder_samples_rates_and_forgets_the_oldest(tmp_path: Path) -> None:
    asyncio.run(_record(compose(a_config(), Home(tmp_path))))


async def _record(parts: Parts) -> None:
    parts.endpoints.close()
    history, metrics = History(most=3, interval_s=0.01), Metrics()
    thermal = Thermal(temperature_c=61.5, is_throttled=True)
    recorder = Recorder(history, parts.pool, metrics, lambda: thermal, parts.home.bundles)
    async with recorder:
        metrics.prompt_tokens.inc(5000)
        metrics.cached_tokens.inc(3000)
        metrics.generated_tokens.inc(1000)
        while not any(sample.generated_tokens_per_s for sample in history.since(-1)):
            await asyncio.sleep(0)
        busy = next(sample for sample in history.since(-1) if sample.generated_tokens_per_s)
        last = history.last
        while history.last is last or len(list(history.since(-1))) < 3:
            await asyncio.sleep(0)
    assert busy.prompt_tokens_per_s == pytest.approx(2 * busy.generated_tokens_per_s, rel=0.01)
    assert (busy.temperature_c, busy.is_throttled, busy.models_bytes) == (61.5, True, 0)
    assert (busy.storage_free_bytes, busy.storage_total_bytes) == (None, None)
    assert len(list(history.since(-1))) == 3


def test_requests_are_remembered_without_content_and_polls_are_not(admin: Administrator) -> None:
    headers = {"x-request-id": "a-known-id"}
    admin.ask("POST", "/v1/embeddings", {"model": "tiny", "input": "a secret text"}, headers=headers)
    admin.ask("POST", "/v1/embeddings", {"model": "missing", "input": "another"})
    for path in ("/admin/status", "/health", "/", "/console/main.js"):
        assert admin.ask("GET", path).status_code == 200
    answer = admin.ask("GET", "/admin/requests")
    latest, embedded = answer.json()["requests"][:2]
    assert (latest["route"], latest["status"]) == ("/v1/embeddings", "404")
    assert (embedded["id"], embedded["status"], embedded["method"]) == ("a-known-id", "200", "POST")
    assert embedded["prompt_tokens"] > 0
    assert embedded["key"]
    assert "secret" not in answer.text


def test_the_doctor_answers_with_remedies(admin: Administrator) -> None:
    findings = {one["subject"]: one for one in admin.ask("GET", "/admin/doctor").json()["findings"]}
    assert {"board", "memory", "storage", "keys", "models", "settings", "versions"} <= findings.keys()
    assert findings["models"]["text"] == "tiny is whole"
    assert all(one["remedy"] or one["level"] == "good" for one in findings.values())


def test_the_doctor_looks_at_the_settings_that_the_server_was_started_with(tmp_path: Path) -> None:
    (tmp_path / "lantern.toml").write_text("[server]\nport = 99999\n")
    chosen = tmp_path / "chosen.toml"
    chosen.write_text("[server]\nport = 0\n")
    environment = {**os.environ, "LANTERN_HOME": str(tmp_path), "LANTERN_API_KEY": KEY}
    environment.pop("NOTIFY_SOCKET", None)
    command = [sys.executable, "-m", "appliance", "serve", "--config", str(chosen)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            url, headers = _base_url(process), {"authorization": f"Bearer {KEY}"}
            findings = httpx2.get(f"{url}/admin/doctor", headers=headers, timeout=60).json()["findings"]
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    [settings] = [one for one in findings if one["subject"] == "settings"]
    assert (settings["level"], settings["text"]) == ("good", f"{chosen} is valid")


def test_a_qr_code_holds_the_text(admin: Administrator) -> None:
    text = f"https://lantern-0a1b2c3d.local/#key=sk-lantern-{'x' * 43}"
    rows = admin.ask("POST", "/admin/qr", {"text": text}).json()["rows"]
    assert rows == ["".join(str(bit & 1) for bit in row) for row in segno.make_qr(text, error="m").matrix]
    assert admin.ask("POST", "/admin/qr", {"text": "x" * 513}).status_code == 400
    assert admin.ask("POST", "/admin/qr", {}).status_code == 400


def test_the_key_of_a_request_is_known_to_have_been_used_and_the_rate_can_be_changed(admin: Administrator) -> None:
    made = admin.ask("POST", "/admin/keys", {"name": "phone", "rate": 1000}).json()
    assert made["last_used"] is None
    phone = Administrator(admin.server, key=made["key"])
    assert phone.ask("GET", "/v1/models").status_code == 200
    found = {key["name"]: key for key in admin.ask("GET", "/admin/keys").json()["keys"]}["phone"]
    assert found["last_used"] >= found["created"]
    changed = admin.ask("PATCH", "/admin/keys/phone", {"rate": 1})
    assert {key["name"]: key["rate"] for key in changed.json()["keys"]}["phone"] == 1
    assert [phone.ask("GET", "/v1/models").status_code for _ in range(2)] == [200, 429]
    assert admin.ask("PATCH", "/admin/keys/phone", {}).json()["keys"][0]["rate"] is None
    assert phone.ask("GET", "/v1/models").status_code == 200
    assert admin.ask("PATCH", "/admin/keys/nobody", {"rate": 1}).status_code == 404
    assert admin.ask("PATCH", "/admin/keys/phone", {"rate": 0}).status_code == 400


def test_the_last_use_of_a_key_survives_a_restart_and_a_damaged_file(tmp_path: Path) -> None:
    device = TinyDevice(tmp_path)
    install_untried(device.store, device.make())
    with administered(device) as admin:
        key = admin.ask("POST", "/admin/keys", {"name": "phone"}).json()
        Administrator(admin.server, key=key["key"]).ask("GET", "/v1/models")
        used = admin.ask("GET", "/admin/keys").json()["keys"][0]["last_used"]
    kept = tmp_path / "home" / "keys" / "used.json"
    assert json.loads(kept.read_text())[key["id"]] == used
    with administered(device) as admin:
        assert admin.ask("GET", "/admin/keys").json()["keys"][0]["last_used"] == used
    kept.write_text('{"x": "y", "z"')
    with administered(device) as admin:
        assert admin.ask("GET", "/admin/keys").json()["keys"][0]["last_used"] is None


def test_a_restart_answers_first_and_the_process_starts_again(tmp_path: Path) -> None:
    device = TinyDevice(tmp_path)
    install_untried(device.store, device.make())
    environment = {**os.environ, "LANTERN_HOME": str(tmp_path / "home"), "LANTERN_API_KEY": KEY}
    environment.pop("NOTIFY_SOCKET", None)
    command = [sys.executable, "-m", "appliance", "serve", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            first = _base_url(process)
            answer = httpx2.post(f"{first}/admin/restart", headers={"authorization": f"Bearer {KEY}"})
            assert (answer.status_code, answer.json()) == (202, {"restarting": True})
            again = _base_url(process)
            assert httpx2.get(f"{again}/health").json()["status"] == "ok"
            status = httpx2.get(f"{again}/admin/status", headers={"authorization": f"Bearer {KEY}"}).json()
            assert status["history"]["at_s"]
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def test_under_a_service_manager_a_restart_is_its_exit_status_and_not_too_often(tmp_path: Path) -> None:
    device = TinyDevice(tmp_path)
    environment = {**os.environ, "LANTERN_HOME": str(device.root / "home"), "LANTERN_API_KEY": KEY}
    environment["NOTIFY_SOCKET"] = str(tmp_path / "nobody")
    program = (
        "import sys, appliance.service.stopping as c; c._RESTART_PAUSE_S = float(sys.argv.pop(1));"
        "from appliance.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    running = tmp_path / "home" / "running.json"
    for pause_s, status in (("3600", 409), ("0", 202)):
        command = [sys.executable, "-c", program, pause_s, "serve", "--port", "0"]
        with subprocess.Popen(command, env=environment) as process:
            try:
                while not running.exists():
                    assert process.poll() is None
                url = json.loads(running.read_text())["url"]
                answer = httpx2.post(f"{url}/admin/restart", headers={"authorization": f"Bearer {KEY}"})
                assert answer.status_code == status
            except BaseException:
                process.kill()
                raise
            if status == 409:
                process.send_signal(signal.SIGTERM)
            assert process.wait(30) == (75 if status == 202 else 0)


def _base_url(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(r"Base URL: (\S+)/v1", line):
            return found[1]
    raise AssertionError("it never became ready")

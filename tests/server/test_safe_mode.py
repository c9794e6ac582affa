"""Safe mode: nothing is loaded, and what brought the service down can be removed from afar."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from appliance.access.keystore import KeyStore, Role
from appliance.home import Home
from appliance.service.composition import Mode, compose
from appliance.service.safe_mode import SafeMode
from tests.bundle.workshop import install_untried
from tests.conftest import a_config
from tests.install.tiny_bundles import TinyDevice
from tests.server.admin.clients import administered, error_of


@contextmanager
def safe_server(home: Home, **server: object) -> Iterator[int]:
    ready = threading.Event()
    parts = compose(a_config(server=server, tls={"port": 0}), home, Mode.SAFE)
    serving = SafeMode(parts, on_ready=lambda _: ready.set())
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        thread = threading.Thread(target=runner.run, args=(serving.run(),), name="safe-server")
        thread.start()
        try:
            assert ready.wait(20)
            yield serving.port
        finally:
            loop.call_soon_threadsafe(serving.stop)
            thread.join(20)


@pytest.fixture
def device(tmp_path: Path) -> TinyDevice:
    made = TinyDevice(tmp_path)
    install_untried(made.store, made.make())
    return made


def test_health_and_administration_answer_and_nothing_else(device: TinyDevice) -> None:
    home = Home(device.root / "home")
    admin = KeyStore(home.api_keys).create("admin", role=Role.ADMINISTRATION).secret
    headers = {"authorization": f"Bearer {admin}"}
    with safe_server(home) as port:
        url = f"http://127.0.0.1:{port}"
        health = httpx2.get(f"{url}/health")
        assert (health.status_code, health.json()["status"]) == (503, "safe")
        body = {"model": "tiny", "input": "x"}
        for key in ({}, headers):
            refused = httpx2.post(f"{url}/v1/embeddings", json=body, headers=key)
            assert refused.status_code == 503
            assert refused.json()["error"]["code"] == "service_unavailable"
        assert httpx2.get(f"{url}/admin/models").status_code == 401
        listed = httpx2.get(f"{url}/admin/models", headers=headers).json()["models"]
        assert [(m["name"], m["loaded"]) for m in listed] == [("tiny", False)]
        assert httpx2.delete(f"{url}/admin/models/tiny", headers=headers).status_code == 200
        assert device.store.names() == []
        assert json.loads(home.running.read_text())["url"] == url
    assert not home.running.exists()


def test_an_administrator_ends_it_and_nobody_else_does(device: TinyDevice) -> None:
    home = Home(device.root / "home")
    secrets = {role: KeyStore(home.api_keys).create(role.value, role=role).secret for role in Role}
    home.leave_safe_mode.touch()
    with safe_server(home) as port:
        assert not home.leave_safe_mode.exists()
        url = f"http://127.0.0.1:{port}/admin/safe-mode"
        user, admin = ({"authorization": f"Bearer {secrets[role]}"} for role in (Role.INFERENCE, Role.ADMINISTRATION))
        assert [httpx2.delete(url, headers=h).status_code for h in ({}, user)] == [401, 403]
        assert httpx2.get(url, headers=admin).json() == {"active": True}
        assert not home.leave_safe_mode.exists()
        left = httpx2.delete(url, headers=admin)
        assert (left.status_code, left.json()) == (202, {"active": False})
        assert home.leave_safe_mode.exists()


def test_who_is_not_in_safe_mode_cannot_leave_it(device: TinyDevice) -> None:
    with administered(device) as admin:
        assert admin.ask("GET", "/admin/safe-mode").json() == {"active": False}
        refused = admin.ask("DELETE", "/admin/safe-mode")
        assert (refused.status_code, error_of(refused)["code"]) == (409, "conflict")
        assert admin.vector()


def test_it_starts_with_nothing_at_all_and_with_a_damaged_home(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.tls.parent.mkdir(parents=True)
    home.tls.write_text("not a certificate")
    home.bundles.mkdir()
    (home.bundles / "tiny").mkdir()
    (home.bundles / "tiny" / "active").symlink_to("nowhere")
    with safe_server(home) as port:
        assert httpx2.get(f"http://127.0.0.1:{port}/health").json()["status"] == "safe"


def test_it_honours_the_settings_of_bodies_pages_and_connections(tmp_path: Path) -> None:
    home, page = Home(tmp_path / "home"), {"origin": "https://chat.example"}
    admin = KeyStore(home.api_keys).create("admin", role=Role.ADMINISTRATION).secret
    headers = {"authorization": f"Bearer {admin}", "content-type": "application/json"}
    settings = {"max_body_mib": 1, "cors_origins": [page["origin"]], "max_connections": 8}
    with safe_server(home, **settings) as port, contextlib.ExitStack() as stack:
        url = f"http://127.0.0.1:{port}"
        refused = httpx2.post(f"{url}/admin/keys", content=b" " * (1 << 20) + b"{}", headers=headers)
        assert refused.status_code == 413
        health = httpx2.get(f"{url}/health", headers=page)
        assert health.headers["access-control-allow-origin"] == page["origin"]
        head = "POST /admin/keys HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 2\r\n"
        busy = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        for _ in range(8):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            sock.sendall(f"{head}{busy}\r\n".encode())
            assert b"100 Continue" in sock.recv(1000)
        assert httpx2.get(f"{url}/health").json()["error"]["code"] == "service_unavailable"

"""Clients that leave, keys, damaged bundles, and the beginning and end of a service."""

from __future__ import annotations

import json
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import openai
import pytest
from openai import OpenAI

from appliance.bundle import BundleStore, TrustedKeys
from appliance.errors import BundleError, ConfigError
from appliance.home import Home
from tests.conftest import RunningServer, a_config, serving

MODEL = "smollm2-135m-instruct"


def wait_until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("stream", [True, False])
def test_twenty_clients_that_leave_keep_no_slot(server: RunningServer, stream: bool) -> None:
    port = int(server.root_url.rsplit(":", 1)[1])
    wait_until(lambda: server.stats().num_running == 0)
    before = server.stats().num_generated_tokens
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Tell me a very long story."}],
        "stream": stream,
        "ignore_eos": True,
        "max_tokens": 1500,
    }
    data = json.dumps(body).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    request = f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data
    sockets = []
    for _ in range(20):
        sock = socket.create_connection(("127.0.0.1", port))
        sock.sendall(request)
        sockets.append(sock)
    wait_until(lambda: server.stats().num_waiting == 16)
    for sock in sockets:
        sock.close()
    wait_until(lambda: server.stats().num_running + server.stats().num_waiting == 0)
    assert server.stats().num_generated_tokens - before < 20 * 1500
    answer = httpx2.post(
        f"{server.base_url}/chat/completions", json={**body, "stream": False, "max_tokens": 2}, timeout=30
    )
    assert answer.status_code == 200


def test_more_than_the_queue_holds_is_a_429_that_says_when_to_return(starter_home: Home) -> None:
    with serving(a_config(engine={"slots": 1, "queue": 0}), starter_home) as server:
        body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "ignore_eos": True, "stream": True}
        with httpx2.stream("POST", f"{server.base_url}/chat/completions", json=body, timeout=30) as running:
            lines = running.iter_lines()
            next(lines)
            refused = httpx2.post(f"{server.base_url}/chat/completions", json=body)
            assert refused.status_code == 429
            assert int(refused.headers["retry-after"]) > 0
            assert refused.headers["x-should-retry"] == "true"
            assert refused.json()["error"]["code"] == "rate_limit_exceeded"
            assert httpx2.get(f"{server.root_url}/health").status_code == 200


def test_keys_are_asked_for_everywhere_but_at_the_health_check(starter_home: Home) -> None:
    key = "sk-correct-horse"
    with serving(a_config(server={"keys": [key]}), starter_home) as server:
        app = server.service.pool
        assert app.is_ready
        for path in ("/v1/models", f"/v1/models/{MODEL}", "/nope"):
            for headers in ({}, {"authorization": "Basic x"}, {"authorization": "Bearer wrong"}):
                response = httpx2.get(f"{server.root_url}{path}", headers=headers)
                assert response.status_code == 401
                assert response.json()["error"]["code"] == "invalid_api_key"
        assert httpx2.post(f"{server.base_url}/chat/completions", json={}).status_code == 401
        assert httpx2.get(f"{server.root_url}/health").status_code == 200
        with OpenAI(base_url=server.base_url, api_key=key) as client:
            assert MODEL in {m.id for m in client.models.list()}
        with (
            OpenAI(base_url=server.base_url, api_key="sk-wrong-horse") as client,
            pytest.raises(openai.AuthenticationError),
        ):
            client.models.list()


def copy_of(home: Home, target: Path) -> Home:
    shutil.copytree(home.root / "keys", target / "keys")
    shutil.copytree(home.bundles, target / "bundles", symlinks=True)
    return Home(target)


def test_a_flipped_byte_in_a_bundle_is_refused_and_the_other_model_serves(starter_home: Home, tmp_path: Path) -> None:
    home = copy_of(starter_home, tmp_path / "copy")
    for folder in (home.bundles / MODEL).iterdir():  # no older version that could take its place
        if not folder.is_symlink() and folder.name != (home.bundles / MODEL / "active").readlink().name:
            shutil.rmtree(folder)
    data = home.bundles / MODEL / "active" / "model.onnx.data"
    with data.open("r+b") as file:
        file.seek(12_345)
        byte = file.read(1)[0]
        file.seek(12_345)
        file.write(bytes([byte ^ 1]))
    with pytest.raises(BundleError, match="damaged"):
        BundleStore(home.bundles, TrustedKeys.load(home.trusted_keys)).open(MODEL)
    with serving(a_config(), home) as server:
        assert httpx2.get(f"{server.root_url}/health").json()["status"] == "degraded"
        with OpenAI(base_url=server.base_url, api_key="any") as client:
            assert client.embeddings.create(model="all-minilm-l6-v2", input="hi").data
            with pytest.raises(openai.NotFoundError):
                client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "hi"}])


def test_without_a_bundle_the_error_says_how_to_build_one(empty_home: Home) -> None:
    with pytest.raises(BundleError, match="lantern-quantize starter"), serving(a_config(), empty_home):
        pass


def test_a_port_in_use_is_one_clear_sentence(empty_home: Home) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        config = a_config(server={"port": sock.getsockname()[1]})
        with pytest.raises(ConfigError, match="choose another"), serving(config, empty_home):
            pass


def test_an_open_server_on_the_network_has_to_be_asked_for(empty_home: Home) -> None:
    with pytest.raises(ConfigError, match="--no-auth"), serving(a_config(server={"host": "0.0.0.0"}), empty_home):
        pass


def test_a_stop_lets_running_streams_finish(starter_home: Home) -> None:
    with serving(a_config(server={"drain_s": 30.0}), starter_home) as server:
        body = {
            "model": MODEL,
            "messages": [{"role": "user", "content": "Count to five."}],
            "stream": True,
            "max_tokens": 60,
            "ignore_eos": True,
        }
        with httpx2.stream("POST", f"{server.base_url}/chat/completions", json=body, timeout=60) as response:
            lines = response.iter_lines()
            next(lines)
            server.call(server.service.stop)
            rest = [line for line in lines if line]
    assert rest[-1] == "data: [DONE]"
    assert '"finish_reason":"length"' in rest[-2]


def test_a_stream_over_http_1_0_ends_with_its_connection(starter_home: Home) -> None:
    body = json.dumps(
        {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3, "stream": True}
    )
    with serving(a_config(), starter_home) as server:
        address = urlsplit(server.base_url)
        assert address.hostname is not None
        assert address.port is not None
        with socket.create_connection((address.hostname, address.port), timeout=60) as sock:
            head = (
                f"POST /v1/chat/completions HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
            )
            sock.sendall(f"{head}\r\nConnection: keep-alive\r\n\r\n{body}".encode())
            received = b"".join(iter(lambda: sock.recv(65536), b""))
    head_bytes, _, events = received.partition(b"\r\n\r\n")
    assert head_bytes.split(b" ")[1] == b"200"
    assert b"chunked" not in head_bytes.lower()
    assert events.startswith(b"data: {")
    assert events.endswith(b"data: [DONE]\n\n")

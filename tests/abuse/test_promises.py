"""Promises to all other clients: a slow reader, one who leaves and one who floods cost only themselves."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import httpx2
import pytest

from appliance.home import Home
from appliance.host.thermal import Thermal
from appliance.server.http.connection import ConnectionLimits
from tests.abuse.bare_server import bare_server
from tests.conftest import RunningServer, a_config, serving

pytestmark = pytest.mark.alone

MODEL = "smollm2-135m-instruct"
LONG: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "Tell me."}], "ignore_eos": True}


def until(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


def send(server: RunningServer, body: dict[str, Any]) -> socket.socket:
    """A request on a connection of its own that takes in as little as it can."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", int(server.root_url.rsplit(":", 1)[1])))
    data = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n"
    sock.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + data)
    return sock


def test_a_reader_who_does_not_read_holds_no_slot(server: RunningServer) -> None:
    until(lambda: server.stats().num_running == 0)
    body = {**LONG, "stream": True, "max_tokens": 250, "logprobs": True, "top_logprobs": 20}
    with send(server, body):
        until(lambda: server.stats().num_running == 1)
        until(lambda: server.stats().num_running == 0, timeout_s=180)
        assert (
            httpx2.post(f"{server.base_url}/chat/completions", json={**LONG, "max_tokens": 1}, timeout=60).status_code
            == 200
        )


def test_an_answer_that_nobody_reads_is_given_up(tmp_path: Path) -> None:
    limits = ConnectionLimits(write_idle_s=0.5, reap_interval_s=0.05)
    request = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with bare_server(tmp_path, limits) as server, server.connect() as sock:
        with contextlib.suppress(OSError):  # until nothing more goes in, or the server has had enough
            sock.settimeout(5.0)
            for _ in range(2000):
                sock.sendall(request)
        deadline_s = time.monotonic() + 20
        while server.listener.num_connections:
            assert time.monotonic() < deadline_s
            time.sleep(0.02)


@pytest.mark.parametrize("state", ["running, streamed", "running, not streamed", "queued"])
def test_who_leaves_costs_a_step_or_two_and_no_more(starter_home: Home, state: str) -> None:
    """The slot is free after one step; here a few more may pass before the loop hears of the closed connection."""
    with serving(a_config(engine={"slots": 1}), starter_home) as server, contextlib.ExitStack() as stack:
        if state == "queued":
            stack.enter_context(send(server, {**LONG, "stream": True, "max_tokens": 1900}))
            until(lambda: server.stats().num_running == 1)
        leaving = send(server, {**LONG, "stream": state != "running, not streamed", "max_tokens": 1900})
        counted = "num_waiting" if state == "queued" else "num_running"
        until(lambda: getattr(server.stats(), counted) == 1)
        until(lambda: server.stats().num_generated_tokens > 2)
        leaving.close()
        before = server.stats().num_generated_tokens
        until(lambda: getattr(server.stats(), counted) == 0)
        assert server.stats().num_generated_tokens - before < 200


def test_a_flood_of_one_key_delays_another_by_little(starter_home: Home) -> None:
    keys = ["sk-of-the-flood", "sk-of-the-other"]
    with serving(a_config(server={"keys": keys}, engine={"slots": 1}), starter_home) as server:
        flooded = threading.Event()

        def ask(key: str) -> str:
            headers = {"authorization": f"Bearer {key}"}
            url = f"{server.base_url}/chat/completions"
            assert httpx2.post(url, json={**LONG, "max_tokens": 24}, headers=headers, timeout=120).status_code == 200
            return key

        with ThreadPoolExecutor(14, "asyncio_flood") as threads:
            flood = [threads.submit(ask, keys[0]) for _ in range(12)]
            until(lambda: server.stats().num_waiting + server.stats().num_running >= 12)
            flooded.set()
            asked_at = sum(f.done() for f in flood)
            other = threads.submit(ask, keys[1])
            finished = [f.result() for f in as_completed([*flood, other])]
    served_before = finished.index(keys[1]) - asked_at
    assert served_before <= 3, finished  # the one that runs, and those whose answers were on their way


def test_a_throttled_board_says_so_and_still_serves(tmp_path: Path) -> None:
    with bare_server(tmp_path, thermal=Thermal(81.0, is_throttled=True)) as server:
        assert server.get("/health")[2]["throttled"] is True
        assert server.get("/v1/models")[0] == 200


def test_two_hundred_slow_connections_leave_a_chat_undisturbed(server: RunningServer) -> None:
    port = int(server.root_url.rsplit(":", 1)[1])
    with contextlib.ExitStack() as stack:
        for i in range(200):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            sock.sendall([b"", b"POST /v1/chat/com", b"GET / HTTP/1.1\r\nX: "][i % 3])
        answer = httpx2.post(f"{server.base_url}/chat/completions", json={**LONG, "max_tokens": 5}, timeout=60)
        assert answer.status_code == 200

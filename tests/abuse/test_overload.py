"""More work than the device can do: 429 and 503 that say when to return, and a server that stays alive meanwhile."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import Counter

import aiohttp
import httpx2
import pytest

from appliance.home import Home
from tests.abuse.server_process import server_process
from tests.conftest import RunningServer, a_config, serving

pytestmark = pytest.mark.alone

MODEL = "smollm2-135m-instruct"
_PATIENCE = 4  # the promise is 250 ms; here other work shares the two cores
LONG = {"model": MODEL, "messages": [{"role": "user", "content": "Tell me a story."}], "ignore_eos": True}


@pytest.mark.parametrize("path", ["chat/completions", "completions"])
@pytest.mark.parametrize("stream", [False, True])
def test_whoever_waits_too_long_for_a_slot_gets_a_503_that_says_when_to_return(
    starter_home: Home, path: str, stream: bool
) -> None:
    config = a_config(server={"max_wait_s": 1.5}, engine={"slots": 1})
    body = {**LONG, "prompt": "Once"} if path == "completions" else LONG
    with serving(config, starter_home) as server:
        running = {**LONG, "stream": True, "max_tokens": 1500}
        with httpx2.stream("POST", f"{server.base_url}/chat/completions", json=running, timeout=30) as response:
            assert response.status_code == 200
            lines = response.iter_lines()
            next(lines)
            answer = httpx2.post(
                f"{server.base_url}/{path}", json={**body, "stream": stream, "max_tokens": 1}, timeout=30
            )
            assert answer.status_code == 503, answer.text
            assert int(answer.headers["retry-after"]) > 0
            assert answer.json()["error"]["code"] == "service_unavailable"
            assert next(line for line in lines if line).startswith("data: ")


def test_ten_times_the_sustainable_load_resets_nobody_and_starves_no_health_check(starter_home: Home) -> None:
    limits = {"LANTERN_SERVER_MAX_WAIT_S": "2.0"}
    with server_process(starter_home, "--slots", "4", **limits) as server:
        statuses, times_s = asyncio.run(_overload(server.root_url, num_clients=120, num_requests=360))
    assert set(statuses) <= {200, 429, 503}
    assert statuses[200] >= 4
    assert statuses[429] + statuses[503] > 100
    times_s.sort()
    assert times_s[int(0.99 * len(times_s))] < 0.25 * _PATIENCE


async def _overload(root_url: str, *, num_clients: int, num_requests: int) -> tuple[Counter[int], list[float]]:
    """Statuses of the requests, and how long each health check took meanwhile."""
    statuses: Counter[int] = Counter()
    times_s: list[float] = []
    todo = iter(range(num_requests))
    async with aiohttp.ClientSession(root_url, connector=aiohttp.TCPConnector(limit=0)) as session:

        async def ask() -> None:
            for _ in todo:
                async with session.post("/v1/chat/completions", json={**LONG, "max_tokens": 16}) as answer:
                    statuses[answer.status] += 1
                    assert answer.status == 200 or int(answer.headers["retry-after"]) > 0
                    assert set(await answer.json()) & {"error", "choices"}

        async def look() -> None:
            while True:
                started_s = time.monotonic()
                async with session.get("/health") as answer:
                    assert answer.status == 200
                times_s.append(time.monotonic() - started_s)
                await asyncio.sleep(0.02)

        looking = asyncio.create_task(look())
        await asyncio.gather(*(ask() for _ in range(num_clients)))
        looking.cancel()
        await asyncio.wait([looking])
    return statuses, times_s


def test_what_was_said_is_nowhere_in_the_log(server: RunningServer, caplog: pytest.LogCaptureFixture) -> None:
    marker = "zanzibar-4711"
    bodies: list[dict[str, object]] = [
        {**LONG, "messages": [{"role": "user", "content": marker}], "max_tokens": 2},
        {**LONG, "messages": [{"role": marker, "content": "x"}]},
        {**LONG, "temperature": marker},
        {**LONG, "stop": [marker], "tools": [{"type": "function", "function": {"name": marker}}], "max_tokens": 2},
        {
            **LONG,
            "response_format": {"type": "json_schema", "json_schema": {"name": marker, "schema": {"type": marker}}},
        },
        {"model": marker},
    ]
    with caplog.at_level(logging.DEBUG):
        for body in bodies:
            httpx2.post(f"{server.base_url}/chat/completions", json=body, timeout=30)
        data = json.dumps({**LONG, "prompt": marker})[:-3].encode()
        httpx2.post(f"{server.base_url}/chat/completions", content=data, headers={"content-type": "application/json"})
        httpx2.get(f"{server.base_url}/models", headers={"authorization": f"Bearer {marker}"})
    own = [r for r in caplog.records if r.name.startswith(("appliance", "aiohttp", "asyncio"))]
    assert len([r for r in own if r.name == "appliance.request"]) >= len(bodies)
    assert marker not in "\n".join(f"{r.getMessage()} {vars(r)}" for r in own)

"""`timings`, an extension with llama.cpp's names: in every answer that generates, and in the chunk with the usage."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest

from tests.conftest import RunningServer
from tests.server.responses.asking import MODEL

_CHAT = {"messages": [{"role": "user", "content": "Count the stars of tonight."}], "max_tokens": 12}
_ROUTES: list[tuple[str, dict[str, Any]]] = [
    ("/chat/completions", _CHAT),
    ("/completions", {"prompt": "The stars of tonight", "max_tokens": 12}),
    ("/responses", {"input": "Count the stars of tonight.", "max_output_tokens": 12}),
]


def ask(server: RunningServer, route: str, **fields: Any) -> httpx2.Response:
    body = {"model": MODEL, "temperature": 0, "ignore_eos": True, **fields}
    answer = httpx2.post(f"{server.base_url}{route}", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer


@pytest.mark.parametrize(("route", "fields"), _ROUTES)
def test_an_answer_tells_its_speed(server: RunningServer, route: str, fields: dict[str, Any]) -> None:
    for _ in range(2):  # the second one finds its prompt in the cache
        answer = ask(server, route, **fields).json()
    timings, usage = answer["timings"], answer["usage"]
    num_prompt = usage.get("prompt_tokens", usage.get("input_tokens"))
    details = usage.get("prompt_tokens_details", usage.get("input_tokens_details"))
    assert timings["cache_n"] == details["cached_tokens"] > 0
    assert timings["prompt_n"] == num_prompt - timings["cache_n"] > 0
    assert timings["predicted_n"] == 12
    for kind in ("prompt", "predicted"):
        count, duration_ms = timings[f"{kind}_n"], timings[f"{kind}_ms"]
        assert duration_ms > 0
        assert timings[f"{kind}_per_token_ms"] == pytest.approx(duration_ms / count, abs=0.001)
        assert timings[f"{kind}_per_second"] == pytest.approx(1e3 * count / duration_ms, rel=0.001)


@pytest.mark.parametrize(("route", "fields"), _ROUTES[:2])
def test_a_stream_tells_it_with_the_usage_and_not_without(
    server: RunningServer, route: str, fields: dict[str, Any]
) -> None:
    for options, num_expected in (({"include_usage": True}, 1), (None, 0)):
        text = ask(server, route, **fields, stream=True, stream_options=options).text
        chunks = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
        timed = [chunk for chunk in chunks if "timings" in chunk]
        assert len(timed) == num_expected
        assert all(chunk["choices"] == [] and chunk["timings"]["predicted_n"] == 12 for chunk in timed)

"""The operator's view: readiness, counters that add up, and one line for each request."""

from __future__ import annotations

import logging

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import RunningServer

MODEL = "smollm2-135m-instruct"


def samples(server: RunningServer) -> dict[tuple[str, str], float]:
    """Values by name and label values."""
    page = httpx2.get(f"{server.root_url}/metrics")
    assert page.headers["content-type"].startswith("text/plain")
    families = text_string_to_metric_families(page.text)
    return {(s.name, " ".join(s.labels.values())): s.value for family in families for s in family.samples}


def ask(server: RunningServer, **changes: object) -> httpx2.Response:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Count to ten."}], "max_tokens": 6, **changes}
    return httpx2.post(f"{server.base_url}/chat/completions", json=body, timeout=30)


def test_the_counters_count_what_the_answers_say(server: RunningServer) -> None:
    before = samples(server)
    usages = [ask(server, ignore_eos=True).json()["usage"] for _ in range(2)]
    assert ask(server, model=5).status_code == 400
    after = samples(server)

    def grown(name: str, labels: str = "") -> float:
        return after[name, labels] - before.get((name, labels), 0.0)

    assert grown("lantern_tokens_total", "prompt") == sum(u["prompt_tokens"] for u in usages)
    assert grown("lantern_tokens_total", "generated") == sum(u["completion_tokens"] for u in usages) == 12
    cached = sum(u["prompt_tokens_details"]["cached_tokens"] for u in usages)
    assert grown("lantern_tokens_total", "cached") == cached > 0
    assert grown("lantern_first_token_seconds_count") == 2
    assert grown("lantern_inter_token_seconds_count") == 10
    assert grown("lantern_wait_seconds_count") == 2
    assert grown("lantern_requests_total", "/v1/chat/completions 200") == 2
    assert grown("lantern_requests_total", "/v1/chat/completions 400") == 1


def test_the_tokens_of_embeddings_are_counted_too(server: RunningServer) -> None:
    before = samples(server)
    body = {"model": "all-minilm-l6-v2", "input": ["The cat sat on the mat.", "A kitten rests on a rug."]}
    usage = httpx2.post(f"{server.base_url}/embeddings", json=body, timeout=30).json()["usage"]
    key = ("lantern_tokens_total", "prompt")
    assert samples(server)[key] - before.get(key, 0.0) == usage["prompt_tokens"] > 10


def test_the_state_of_engine_and_process_is_shown(server: RunningServer) -> None:
    found = samples(server)
    assert found["lantern_engine_slots", MODEL] == 4
    assert found["lantern_engine_waiting", MODEL] == 0
    assert found["lantern_models_ready", ""] == 1
    assert found["lantern_resident_bytes", ""] > 50e6
    assert found["lantern_throttled", ""] in {0.0, 1.0}


def test_a_path_that_a_client_made_up_is_no_label(server: RunningServer) -> None:
    assert httpx2.get(f"{server.root_url}/made-up-4711").status_code == 404
    assert not [key for key in samples(server) if "4711" in key[1]]


def test_a_server_that_takes_requests_is_ready(server: RunningServer) -> None:
    answer = httpx2.get(f"{server.root_url}/ready")
    assert answer.status_code == 200
    assert answer.json()["status"] == "ok"
    assert MODEL in answer.json()["models"]


def test_a_request_leaves_one_line_with_ids_times_and_counts(
    server: RunningServer, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "appliance.request"):
        assert httpx2.post(
            f"{server.base_url}/chat/completions",
            json={"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3, "stream": True},
            headers={"x-request-id": "line-1"},
            timeout=30,
        ).text.endswith("data: [DONE]\n\n")
        httpx2.get(f"{server.root_url}/openapi.json")  # its line comes after that of the stream
    lines = [fields for r in caplog.records if (fields := vars(r).get("fields", {})).get("request") == "line-1"]
    [line] = lines
    assert line["status"] == 200
    assert line["peer"] == "127.0.0.1"
    assert 0 < line["generated_tokens"] <= 3
    assert 0 <= line["wait_ms"] <= line["first_token_ms"] <= line["duration_ms"]


def test_what_monitors_ask_all_day_leaves_no_line_while_all_is_well(
    server: RunningServer, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "appliance.request"):
        for path in ("/health", "/ready", "/metrics", "/nothing", "/openapi.json"):
            httpx2.get(f"{server.root_url}{path}")
    assert [r.getMessage() for r in caplog.records if r.name == "appliance.request"] == [
        "GET /nothing",
        "GET /openapi.json",
    ]

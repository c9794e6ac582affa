"""`return_progress`, a field of llama.cpp's server: the place in the queue, and the tokens of the prompt read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import openai
import pytest

from appliance.home import Home
from tests.conftest import RunningServer, a_config, serving
from tests.server.responses.asking import MODEL, events_of, text_of

LONG_PROMPT = "The stars of tonight are counted one by one. " * 60
CHAT: dict[str, Any] = {"max_tokens": 8, "messages": [{"role": "user", "content": LONG_PROMPT}]}
RESPONSE: dict[str, Any] = {"max_output_tokens": 8, "input": LONG_PROMPT}
SAME_IN_ALL = ("id", "created", "created_at", "completed_at", "timings")


@pytest.fixture(scope="module")
def narrow_server(starter_home: Home) -> Iterator[RunningServer]:
    """A server with one slot, so that a second request waits."""
    with serving(a_config(engine={"slots": 1}), starter_home) as running:
        yield running


def ask(server: RunningServer, route: str, **fields: Any) -> httpx2.Response:
    body = {"model": MODEL, "temperature": 0, "ignore_eos": True, "stream": True, **fields}
    answer = httpx2.post(f"{server.base_url}{route}", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer


def chunks_of(answer: httpx2.Response) -> list[dict[str, Any]]:
    *data, last = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    assert last == "[DONE]"
    return [json.loads(one) for one in data]


def check_progress(told: list[dict[str, int]], num_prompt: int, num_cached: int) -> None:
    """Hold the progress of a prompt against its counts: from the prefix that was there to the end, in steps."""
    assert {(one["total"], one["cache"]) for one in told} == {(num_prompt, num_cached)}
    processed = [one["processed"] for one in told]
    assert processed[0] == num_cached
    assert processed[-1] == num_prompt
    assert processed == sorted(set(processed))
    times = [one["time_ms"] for one in told]
    assert times[0] == 0
    assert times == sorted(times)


def test_chat_tells_the_progress_of_its_prompt_and_its_text_is_the_same(server: RunningServer) -> None:
    fields = {**CHAT, "stream_options": {"include_usage": True}}
    told = chunks_of(ask(server, "/chat/completions", **fields, return_progress=True))
    num_told = sum("prompt_progress" in chunk for chunk in told)
    progress, rest = told[:num_told], told[num_told:]
    usage = rest[-1]["usage"]
    num_cached = usage["prompt_tokens_details"]["cached_tokens"]
    check_progress([chunk["prompt_progress"] for chunk in progress], usage["prompt_tokens"], num_cached)
    assert num_told > 2 or num_cached > 200
    assert all(chunk["choices"][0]["delta"] == {} and chunk["usage"] is None for chunk in progress)
    silent = chunks_of(ask(server, "/chat/completions", **fields))
    assert [chunk["choices"] for chunk in rest] == [chunk["choices"] for chunk in silent]
    plain = ask(server, "/chat/completions", **CHAT, stream=False, return_progress=True).json()
    text = "".join(choice["delta"].get("content") or "" for chunk in rest for choice in chunk["choices"])
    assert plain["choices"][0]["message"]["content"] == text
    assert "prompt_progress" not in plain


def test_several_choices_tell_the_progress_of_the_first(server: RunningServer) -> None:
    told = chunks_of(ask(server, "/chat/completions", **CHAT, n=3, return_progress=True))
    progress = [chunk for chunk in told if "prompt_progress" in chunk]
    assert told[: len(progress)] == progress
    assert {chunk["choices"][0]["index"] for chunk in progress} == {0}
    assert progress[-1]["prompt_progress"]["processed"] == progress[-1]["prompt_progress"]["total"]
    ends = [choice["index"] for chunk in told for choice in chunk["choices"] if choice["finish_reason"]]
    assert sorted(ends) == [0, 1, 2]


def test_the_sdk_reads_a_stream_with_progress(server: RunningServer) -> None:
    with openai.OpenAI(base_url=server.base_url, api_key="none") as client:
        extra = {"return_progress": True}
        with client.chat.completions.stream(model=MODEL, temperature=0, extra_body=extra, **CHAT) as stream:
            stream.until_done()
            chat = stream.current_completion_snapshot
        assert chat.choices[0].message.role == "assistant"
        plain = client.chat.completions.create(model=MODEL, temperature=0, **CHAT)
        assert chat.choices[0].message.content == plain.choices[0].message.content
        with client.responses.stream(model=MODEL, temperature=0, extra_body=extra, **RESPONSE) as events:
            last = list(events)[-1]
        assert last.type == "response.incomplete"
        assert last.response.output_text == client.responses.create(model=MODEL, temperature=0, **RESPONSE).output_text


@pytest.mark.parametrize("background", [False, True])
def test_a_response_tells_the_progress_of_its_prompt_and_is_the_same(server: RunningServer, background: bool) -> None:
    fields = {**RESPONSE, "background": background}
    told = events_of(ask(server, "/responses", **fields, return_progress=True).text)
    progress = [event["prompt_progress"] for event in told if event["type"] == "response.prompt_progress"]
    usage = told[-1]["response"]["usage"]
    check_progress(progress, usage["input_tokens"], usage["input_tokens_details"]["cached_tokens"])
    silent = events_of(ask(server, "/responses", **fields).text)
    assert not [event for event in silent if "prompt_progress" in event or "queue_position" in event]
    kinds = [event["type"] for event in told if event["type"] != "response.prompt_progress"]
    assert kinds == [event["type"] for event in silent]
    assert text_of(told[-1]["response"]) == text_of(silent[-1]["response"])


def test_who_waits_is_told_the_place_in_the_queue(narrow_server: RunningServer) -> None:
    """Three requests stand behind one that is read slowly; each is told its way to the slot."""
    holder = {"model": MODEL, "stream": True, "ignore_eos": True, "max_tokens": 1500}
    url = f"{narrow_server.base_url}/chat/completions"
    says = {"messages": [{"role": "user", "content": "Count."}]}
    with httpx2.stream("POST", url, json={**holder, **says}, timeout=60) as running, ThreadPoolExecutor(3) as threads:
        lines = running.iter_lines()
        next(lines)  # it has the slot
        routes = [
            ("/chat/completions", CHAT),
            ("/responses", RESPONSE),
            ("/responses", {**RESPONSE, "background": True}),
        ]
        waiting = []
        for num_waiting, (route, fields) in enumerate(routes, start=1):
            waiting.append(threads.submit(ask, narrow_server, route, **fields, return_progress=True))
            wait_for_queue(narrow_server, num_waiting)
        running.close()
        answers = [one.result() for one in waiting]
    streams = [chunks_of(answers[0]), *(events_of(answer.text) for answer in answers[1:])]
    for place, told in enumerate(streams, start=1):
        places = [one["queue_position"] for one in told if "queue_position" in one]
        assert places == list(range(place, 0, -1))
        order = ["queue_position" in one for one in told if "queue_position" in one or "prompt_progress" in one]
        assert order == sorted(order, reverse=True)
    kinds = [event["type"] for event in streams[2]]
    assert kinds.index("response.queue_position") < kinds.index("response.in_progress")


def wait_for_queue(server: RunningServer, num_waiting: int) -> None:
    for _ in range(2000):  # a few milliseconds each
        engines = httpx2.get(f"{server.root_url}/health").json()["engines"].values()
        if num_waiting == sum(engine["num_waiting"] for engine in engines):
            return
    raise AssertionError(f"there are not {num_waiting} requests in the queue")

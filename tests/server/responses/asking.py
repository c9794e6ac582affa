"""Requests to /v1/responses of a real server, and the rules that every stream keeps."""

from __future__ import annotations

import json
from typing import Any

import httpx2

from tests.conftest import RunningServer

MODEL = "smollm2-135m-instruct"
ENDS = ("response.completed", "response.incomplete", "response.failed")
PROGRESS = ("response.queue_position", "response.prompt_progress")  # before all items; see test_progress.py
WEATHER: dict[str, Any] = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string", "maxLength": 12}}, "required": ["city"]},
}


def post(server: RunningServer, path: str = "/responses", **fields: Any) -> httpx2.Response:
    """Send a request for a greedy answer."""
    body = {"model": MODEL, "temperature": 0, **fields}
    if path != "/responses":
        del body["temperature"]
    return httpx2.post(f"{server.base_url}{path}", json=body, timeout=60)


def create(server: RunningServer, **fields: Any) -> dict[str, Any]:
    """Return a plain response."""
    answer = post(server, **fields)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def stream(server: RunningServer, **fields: Any) -> list[dict[str, Any]]:
    """Return the events of a streamed response, checked against the rules of every stream."""
    answer = post(server, **fields, stream=True)
    assert answer.status_code == 200, answer.text
    return events_of(answer.text)


def events_of(text: str) -> list[dict[str, Any]]:
    """Parse a stream; its names, numbers, beginning, items and end are those of OpenAI's."""
    blocks = [block for block in text.split("\n\n") if block and not block.startswith(":")]
    assert blocks.pop() == "data: [DONE]"
    events = []
    for block in blocks:
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        events.append(event)
    check_events(events)
    return events


def check_events(events: list[dict[str, Any]]) -> None:
    """Hold the events against what clients take for granted."""
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    events = [event for event in events if event["type"] not in PROGRESS]
    is_background = events[0]["response"].get("background", False)
    begin = ["response.created", *(["response.queued"] if is_background else []), "response.in_progress"]
    assert [event["type"] for event in events[: len(begin)]] == begin
    assert [event["type"] in ENDS for event in events] == [False] * (len(events) - 1) + [True]
    assert len({event["response"]["id"] for event in events if "response" in event}) == 1
    done: list[dict[str, Any]] = []
    current: dict[str, Any] | None = None
    text = ""
    for event in events[len(begin) : -1]:
        if event["type"] == "response.output_item.added":
            assert current is None
            current, text = event["item"], ""
            assert event["output_index"] == len(done)
            continue
        assert current is not None
        assert event["output_index"] == len(done)
        if event["type"] == "response.output_item.done":
            assert {k: event["item"][k] for k in ("id", "type")} == {k: current[k] for k in ("id", "type")}
            assert event["item"].get("call_id") == current.get("call_id")
            done.append(event["item"])
            current = None
            continue
        assert event["item_id"] == current["id"]
        if event["type"].endswith(".delta"):
            text += event["delta"]
        elif event["type"].endswith("arguments.done"):
            assert json.loads(event["arguments"]) == json.loads(text)
        elif event["type"].endswith("text.done"):
            assert event["text"] == text
    assert current is None or events[-1]["type"] == "response.failed"  # which has the items that were done
    assert events[-1]["response"]["output"] == done


def text_of(response: dict[str, Any]) -> str:
    """Return the text of all messages of a response."""
    return "".join(part["text"] for item in response["output"] if item["type"] == "message" for part in item["content"])

"""Streams of responses that cannot be completed, and streams whose first item takes long."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, cast

import httpx2

from appliance.home import Home
from appliance.server.v1.choice import TextPiece
from appliance.server.v1.responses.events import Event
from appliance.server.v1.responses.run import Run
from appliance.server.v1.responses.stream import send_output
from tests.conftest import a_config, serving
from tests.server.responses.asking import MODEL, events_of
from tests.server.responses.openai_schemas import OpenAISchemas


def stopped_in_the_middle(home: Home) -> list[dict[str, Any]]:
    """Return the events of a stream whose server stops once text has come."""
    body = {"model": MODEL, "input": "Tell a story.", "stream": True, "ignore_eos": True, "max_output_tokens": 1500}
    with ThreadPoolExecutor(1) as reader:
        with serving(a_config(server={"drain_s": 0.0}), home) as server:
            stream = httpx2.stream("POST", f"{server.base_url}/responses", json=body, timeout=60)
            response = stream.__enter__()
            chunks = response.iter_text()
            read = next(chunks)
            while "response.output_text.delta" not in read:
                read += next(chunks)
            rest = reader.submit("".join, chunks)
        text = read + rest.result(30)
        stream.__exit__(None, None, None)
    return events_of(text)


def test_a_stop_in_the_middle_is_a_failed_response_and_one_last_event(starter_home: Home) -> None:
    last = stopped_in_the_middle(starter_home)[-1]
    assert last["type"] == "response.failed"
    failed = last["response"]
    assert (failed["status"], failed["store"], failed["completed_at"]) == ("failed", False, None)
    assert failed["error"]["code"] == "server_error"
    assert "stopping" in failed["error"]["message"]


def test_a_failed_response_is_what_openai_documents(starter_home: Home) -> None:
    schemas = OpenAISchemas()
    last = stopped_in_the_middle(starter_home)[-1]
    del last["response"]["usage"]  # null, as OpenAI sends it, whatever its schema has
    assert schemas.faults("ResponseStreamEvent", last) == []


@dataclass
class FakeOutput:
    """An output that begins with its first text."""

    has_begun: bool = False


class FakeAnswer:
    """An answer in progress."""

    def begun(self) -> dict[str, str]:
        return {"id": "resp_1", "status": "in_progress"}


@dataclass
class FakeGeneration:
    """A generation that gives no text before it is told to."""

    tells_progress: bool = False
    may_begin: asyncio.Event = field(default_factory=asyncio.Event)
    may_end: asyncio.Event = field(default_factory=asyncio.Event)

    async def pieces(self) -> AsyncIterator[tuple[None, TextPiece]]:
        await self.may_begin.wait()
        yield None, TextPiece("a")
        await self.may_end.wait()


@dataclass
class FakeRun:
    """A run without a model."""

    generation: FakeGeneration = field(default_factory=FakeGeneration)
    output: FakeOutput = field(default_factory=FakeOutput)
    answer: FakeAnswer = field(default_factory=FakeAnswer)

    def read(self, piece: TextPiece) -> Iterator[Event]:
        self.output.has_begun = True
        yield {"type": "response.output_text.delta", "delta": piece.text}


class Sink:
    """The types of the events; an event of its own is set when enough have come."""

    def __init__(self, num_awaited: int) -> None:
        self.kinds: list[str] = []
        self.has_enough = asyncio.Event()
        self._num_awaited = num_awaited

    async def send(self, event: Event) -> None:
        json.dumps(event)
        self.kinds.append(event["type"])
        if len(self.kinds) == self._num_awaited:
            self.has_enough.set()


def test_a_long_prompt_is_told_to_be_in_progress_until_the_first_item() -> None:
    async def check() -> None:
        run, sink = FakeRun(), Sink(num_awaited=4)
        sending = asyncio.create_task(send_output(cast("Run", run), sink, "req_1", reminder_s=0.005))
        await asyncio.wait_for(sink.has_enough.wait(), 30)
        run.generation.may_begin.set()
        while "response.output_text.delta" not in sink.kinds:
            await asyncio.sleep(0)
        num_sent = len(sink.kinds)
        while len(asyncio.all_tasks()) > 2:  # besides this one and `sending`, that of the reminders, which ends itself
            await asyncio.sleep(0)
        run.generation.may_end.set()
        assert await sending is None
        assert sink.kinds == ["response.in_progress"] * (num_sent - 1) + ["response.output_text.delta"]

    asyncio.run(check())

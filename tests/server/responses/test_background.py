"""Responses in the background against a real server: polled, cancelled, streamed, resumed, cut by a restart."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import openai
import pytest

from appliance.home import Home
from appliance.server.v1.responses.response import Response, ResponseEvent
from tests.conftest import RunningServer, a_config, serving
from tests.server.answers import read_answer
from tests.server.responses.asking import ENDS, MODEL, check_events, create, events_of, post, text_of
from tests.server.responses.openai_schemas import OpenAISchemas
from tests.server.wire import assert_error

LONG: dict[str, Any] = {"input": "Tell me a long story.", "ignore_eos": True, "max_output_tokens": 400}


@pytest.fixture(scope="module")
def client(server: RunningServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=0)


def url_of(server: RunningServer, response_id: str) -> str:
    return f"{server.base_url}/responses/{response_id}"


def resumed(server: RunningServer, response_id: str, after: int | None = None) -> list[dict[str, Any]]:
    """Return the events from a number on until the last one, without the rules of a whole stream."""
    params = {"stream": "true"} | ({"starting_after": str(after)} if after is not None else {})
    answer = httpx2.get(url_of(server, response_id), params=params, timeout=120)
    assert answer.status_code == 200, answer.text
    blocks = [block for block in answer.text.split("\n\n") if block and not block.startswith(":")]
    assert blocks.pop() == "data: [DONE]"
    return [json.loads(block.split("\n")[1].removeprefix("data: ")) for block in blocks]


def finished(server: RunningServer, response_id: str) -> dict[str, Any]:
    """Wait for the end by following the events, then return the response."""
    resumed(server, response_id)
    answer: dict[str, Any] = httpx2.get(url_of(server, response_id)).json()
    return answer


def leave_after(server: RunningServer, mark: bytes, **fields: Any) -> tuple[str, bytes]:
    """Stream a response and leave after these bytes; return its id and what was seen."""

    async def leave() -> tuple[str, bytes]:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.service.port)
        body = json.dumps({"model": MODEL, "temperature": 0, "stream": True, **fields}).encode()
        head = "POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        await reader.readuntil(b"event: response.created\n")
        created = await reader.readline()
        seen = created + await reader.readuntil(mark)
        writer.close()
        await writer.wait_closed()
        return json.loads(created.removeprefix(b"data: "))["response"]["id"], seen

    return asyncio.run(leave())


def test_a_response_is_queued_polled_and_completed(server: RunningServer) -> None:
    begun = create(server, input="Say hello.", background=True, max_output_tokens=200)
    read_answer(Response, json.dumps(begun))
    assert (begun["status"], begun["output"], begun["usage"]) == ("queued", [], None)
    ended = finished(server, begun["id"])
    read_answer(Response, json.dumps(ended))
    plain = create(server, input="Say hello.", max_output_tokens=200)
    assert (ended["status"], text_of(ended)) == (plain["status"], text_of(plain))
    assert ended["background"] is True
    assert ended["usage"]["output_tokens"] == plain["usage"]["output_tokens"]
    items = httpx2.get(f"{url_of(server, begun['id'])}/input_items").json()["data"]
    assert [item["content"][0]["text"] for item in items] == ["Say hello."]
    create(server, input="Again.", previous_response_id=begun["id"], max_output_tokens=2)


def test_every_event_and_state_satisfies_openais_schemas(server: RunningServer) -> None:
    schemas = OpenAISchemas()
    answer = post(server, input="Say hello.", background=True, stream=True, max_output_tokens=8)
    events = events_of(answer.text)
    for event in events:
        read_answer(ResponseEvent, json.dumps(event))
        if event.get("response", {}).get("usage", 0) is None:
            del event["response"]["usage"]
        assert schemas.faults("ResponseStreamEvent", event) == []
    ended = httpx2.get(url_of(server, events[0]["response"]["id"])).json()
    assert schemas.faults("Response", ended) == []
    assert ended == events[-1]["response"]


def test_a_stream_goes_on_after_its_client_has_left_and_is_resumed_where_it_was_cut(server: RunningServer) -> None:
    response_id, seen = leave_after(server, b"event: response.output_text.delta\n", background=True, **LONG)
    numbers = [json.loads(line[6:])["sequence_number"] for line in seen.split(b"\n") if line.startswith(b"data: ")]
    last = numbers[-1]
    rest = resumed(server, response_id, last)
    assert [event["sequence_number"] for event in rest] == list(range(last + 1, last + 1 + len(rest)))
    whole = resumed(server, response_id)
    check_events(whole)
    assert whole[last + 1 :] == rest
    ended = httpx2.get(url_of(server, response_id)).json()
    assert ended == whole[-1]["response"]
    assert ended["usage"]["output_tokens"] == 400


def test_two_clients_resume_one_stream_at_once_and_see_the_same(server: RunningServer) -> None:
    begun = create(server, background=True, **LONG)
    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(lambda after: resumed(server, begun["id"], after), [None, 0])
    check_events(first)
    assert second == first[1:]


def test_a_client_can_ask_for_padding_when_it_resumes(server: RunningServer) -> None:
    begun = create(server, input="Hi", background=True, max_output_tokens=4)
    params = {"stream": "true", "include_obfuscation": "true"}
    padded = events_of(httpx2.get(url_of(server, begun["id"]), params=params, timeout=60).text)
    assert all(("obfuscation" in event) == event["type"].endswith(".delta") for event in padded)


def test_a_response_that_is_cancelled_frees_its_slot_and_says_so(server: RunningServer) -> None:
    response_id, _ = leave_after(server, b"event: response.output_text.delta\n", background=True, **LONG)
    now = httpx2.get(url_of(server, response_id)).json()
    assert now["status"] == "in_progress"
    cancelled = httpx2.post(f"{url_of(server, response_id)}/cancel", timeout=60)
    read_answer(Response, cancelled.text)
    body = cancelled.json()
    assert (body["status"], body["error"], body["incomplete_details"]) == ("cancelled", None, None)
    assert body["output"][0]["status"] == "incomplete"
    assert body["usage"]["output_tokens"] < 400
    assert httpx2.post(f"{url_of(server, response_id)}/cancel").json() == body
    assert httpx2.get(url_of(server, response_id)).json() == body
    events = resumed(server, response_id)
    check_events(events)
    assert (events[-1]["type"], events[-1]["response"]) == ("response.incomplete", body)


def test_one_that_has_ended_is_returned_as_it_is_when_it_is_cancelled(server: RunningServer) -> None:
    begun = create(server, input="Hi", background=True, max_output_tokens=2)
    ended = finished(server, begun["id"])
    assert httpx2.post(f"{url_of(server, begun['id'])}/cancel").json() == ended


def test_one_that_runs_is_deleted_with_its_events(server: RunningServer) -> None:
    begun = create(server, background=True, **LONG)
    assert httpx2.delete(url_of(server, begun["id"]), timeout=60).json()["deleted"] is True
    for asked in (httpx2.get(url_of(server, begun["id"])), httpx2.delete(url_of(server, begun["id"]))):
        assert_error(asked, 404, "not_found")


def test_one_that_has_not_ended_cannot_be_continued(server: RunningServer) -> None:
    begun = create(server, background=True, **LONG)
    refused = post(server, input="Go on.", previous_response_id=begun["id"])
    assert_error(refused, 400, "invalid_value", "previous_response_id")
    httpx2.post(f"{url_of(server, begun['id'])}/cancel", timeout=60)


def test_a_place_in_the_stream_that_never_was_is_refused(server: RunningServer) -> None:
    begun = create(server, input="Hi", background=True, max_output_tokens=2)
    events = resumed(server, begun["id"])
    assert resumed(server, begun["id"], events[-1]["sequence_number"]) == []
    for after in ("-1", "x", "999999", "9" * 30, "٣"):
        params = {"stream": "true", "starting_after": after}
        answer = httpx2.get(url_of(server, begun["id"]), params=params)
        assert_error(answer, 400, "invalid_value", "starting_after")


def test_refusals_come_as_statuses_before_anything_is_stored(server: RunningServer) -> None:
    assert_error(post(server, input="a", background=True, model="none"), 404, "model_not_found")
    assert_error(post(server, input="word " * 9000, background=True), 400, "context_length_exceeded", "input")
    assert_error(post(server, input="a", background=True, store=False), 400, "invalid_value", "background")


def test_openais_client_polls_cancels_and_resumes(client: openai.OpenAI) -> None:
    begun = client.responses.create(model=MODEL, background=True, input="Say hello.", max_output_tokens=200)
    assert begun.status == "queued"
    seen: list[Any] = []
    stream = client.responses.create(
        model=MODEL, background=True, stream=True, input="Say hello.", temperature=0, max_output_tokens=200
    )
    response_id = ""
    for event in stream:
        seen.append(event)
        if event.type == "response.created":
            response_id = event.response.id
        if event.type == "response.output_text.delta":
            break
    stream.close()
    for event in client.responses.retrieve(response_id, stream=True, starting_after=seen[-1].sequence_number):
        seen.append(event)
    assert [event.sequence_number for event in seen] == list(range(len(seen)))
    ended = client.responses.retrieve(response_id)
    assert "".join(e.delta for e in seen if e.type == "response.output_text.delta") == ended.output_text
    assert client.responses.cancel(response_id).status == ended.status


def test_events_and_states_belong_to_their_key_and_one_key_has_a_bound(starter_home: Home) -> None:
    keys = ["sk-first-of-all", "sk-second-of-all"]
    mine, other = ({"Authorization": f"Bearer {key}"} for key in keys)
    request = {"model": MODEL, "background": True, "max_output_tokens": 1500, **LONG}
    with serving(a_config(server={"keys": keys}), starter_home) as server:
        url = f"{server.base_url}/responses"
        made = [httpx2.post(url, json=request, headers=mine, timeout=60).json() for _ in range(8)]
        assert_error(httpx2.post(url, json=request, headers=mine, timeout=60), 429, "rate_limit_exceeded")
        taken = httpx2.post(url, json={**request, "max_output_tokens": 1}, headers=other, timeout=60)
        assert taken.status_code == 200
        place = f"{url}/{made[0]['id']}"
        for asked in (
            httpx2.get(place, headers=other),
            httpx2.get(place, params={"stream": "true"}, headers=other),
            httpx2.post(f"{place}/cancel", headers=other),
            httpx2.delete(place, headers=other),
        ):
            assert_error(asked, 404, "not_found")
        assert httpx2.get(place, headers=mine).json()["status"] in {"queued", "in_progress"}
        for response in made:
            ended = httpx2.post(f"{url}/{response['id']}/cancel", headers=mine, timeout=60).json()
            assert ended["status"] == "cancelled"
        assert httpx2.post(url, json={**request, "max_output_tokens": 1}, headers=mine, timeout=60).status_code == 200


@pytest.fixture
def own_home(starter_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home of the test's own around the starter models."""
    home = Home(tmp_path_factory.mktemp("own"))
    for path, shared in (
        (home.bundles, starter_home.bundles),
        (home.cache, starter_home.cache),
        (home.trusted_keys, starter_home.trusted_keys),
    ):
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.symlink_to(shared)
    return home


def test_a_stop_in_the_middle_leaves_an_honest_status(own_home: Home) -> None:
    config = a_config(server={"drain_s": 0.0}, responses={"store": "disk"})
    with serving(config, own_home) as server:
        running = create(server, background=True, **LONG)
        done = create(server, input="Hi", max_output_tokens=2)
    with serving(config, own_home) as server:
        cut = httpx2.get(url_of(server, running["id"])).json()
        read_answer(Response, json.dumps(cut))
        assert (cut["status"], cut["error"]["code"]) == ("failed", "server_error")
        gone = httpx2.get(url_of(server, running["id"]), params={"stream": "true"})
        assert_error(gone, 400, "invalid_value", "stream")
        assert httpx2.get(url_of(server, done["id"])).json() == done
        create(server, input="And?", previous_response_id=done["id"], max_output_tokens=1)


def test_without_a_disk_a_restart_forgets_and_says_so(own_home: Home) -> None:
    with serving(a_config(server={"drain_s": 0.0}), own_home) as server:
        running = create(server, background=True, **LONG)
    with serving(a_config(), own_home) as server:
        assert_error(httpx2.get(url_of(server, running["id"])), 404, "not_found")


def test_every_stream_of_the_background_ends_once(server: RunningServer) -> None:
    events = events_of(post(server, background=True, stream=True, **{**LONG, "max_output_tokens": 20}).text)
    assert [event["type"] for event in events if event["type"] in ENDS] == ["response.incomplete"]

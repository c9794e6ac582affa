"""Conversations against a real server: their items, responses that are made from them and add to them, their keys."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import openai
import pytest

from appliance.home import Home
from appliance.server.v1.conversations import ConversationObject
from appliance.server.v1.responses.response import InputItemList
from tests.conftest import RunningServer, a_config, serving
from tests.server.answers import read_answer
from tests.server.responses.asking import MODEL, WEATHER, create, post, stream, text_of
from tests.server.responses.openai_schemas import OpenAISchemas
from tests.server.wire import assert_error

ADA = {"type": "message", "role": "user", "content": "My name is Ada."}


@pytest.fixture(scope="module")
def client(server: RunningServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=0)


def new(server: RunningServer, **fields: Any) -> str:
    """Return the id of a new conversation."""
    answer = httpx2.post(f"{server.base_url}/conversations", json=fields)
    read_answer(ConversationObject, answer.text)
    conversation_id: str = answer.json()["id"]
    return conversation_id


def items_of(server: RunningServer, conversation_id: str) -> list[dict[str, Any]]:
    """Return the first hundred items, the oldest one first."""
    params = {"order": "asc", "limit": "100"}
    answer = httpx2.get(f"{server.base_url}/conversations/{conversation_id}/items", params=params)
    read_answer(InputItemList, answer.text)
    items: list[dict[str, Any]] = answer.json()["data"]
    return items


def texts(items: list[dict[str, Any]]) -> list[str]:
    return [item["content"][0]["text"] for item in items if item["type"] == "message"]


def test_openais_client_makes_reads_changes_and_deletes_conversations(client: openai.OpenAI) -> None:
    conversation = client.conversations.create(metadata={"topic": "names"}, items=[{**ADA}])  # type: ignore[list-item]
    assert conversation.object == "conversation"
    assert client.conversations.retrieve(conversation.id) == conversation
    changed = client.conversations.update(conversation.id, metadata={"topic": "others"})
    assert changed.metadata == {"topic": "others"}
    more: Any = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]
    added = client.conversations.items.create(conversation.id, items=more)
    assert [item.type for item in added.data] == ["message", "message"]
    listed = list(client.conversations.items.list(conversation.id, order="asc", limit=2))
    assert [item.id for item in listed][1:] == [item.id for item in added.data]
    assert client.conversations.items.retrieve(listed[0].id or "", conversation_id=conversation.id) == listed[0]
    left = client.conversations.items.delete(listed[0].id or "", conversation_id=conversation.id)
    assert left.id == conversation.id
    assert len(list(client.conversations.items.list(conversation.id))) == 2
    assert client.conversations.delete(conversation.id).deleted is True
    with pytest.raises(openai.NotFoundError):
        client.conversations.retrieve(conversation.id)


def test_a_response_reads_the_conversation_and_adds_its_turn(server: RunningServer) -> None:
    conversation_id = new(server, items=[ADA])
    made = create(server, input="Who am I?", conversation=conversation_id, max_output_tokens=6)
    assert made["conversation"] == {"id": conversation_id}
    assert OpenAISchemas().faults("Response", made) == []
    items = items_of(server, conversation_id)
    assert texts(items) == ["My name is Ada.", "Who am I?", text_of(made)]
    history = [ADA, {"role": "user", "content": "Who am I?"}, *made["output"], {"role": "user", "content": "Again."}]
    count = post(server, "/responses/input_tokens", input="Again.", conversation={"id": conversation_id}).json()
    assert count == post(server, "/responses/input_tokens", input=history).json()
    streamed = stream(server, input="Again.", conversation={"id": conversation_id}, max_output_tokens=3)
    assert streamed[-1]["response"]["conversation"] == {"id": conversation_id}
    assert texts(items_of(server, conversation_id))[3:] == ["Again.", text_of(streamed[-1]["response"])]


def test_a_call_and_its_result_are_turns_of_a_conversation(server: RunningServer) -> None:
    conversation_id = new(server)
    fields: dict[str, Any] = {"conversation": conversation_id, "tools": [WEATHER], "max_output_tokens": 60}
    called = create(server, input="Weather in Paris?", tool_choice="required", **fields)
    result = {"type": "function_call_output", "call_id": called["output"][0]["call_id"], "output": "Sunny."}
    create(server, input=[result], **fields)
    kinds = [item["type"] for item in items_of(server, conversation_id)]
    assert kinds[:3] == ["message", "function_call", "function_call_output"]


def test_a_response_in_the_background_adds_its_turn_at_its_end(server: RunningServer) -> None:
    conversation_id = new(server, items=[ADA])
    begun = create(server, input="Hi", conversation=conversation_id, background=True, max_output_tokens=3)
    httpx2.get(f"{server.base_url}/responses/{begun['id']}", params={"stream": "true"}, timeout=60)
    ended = httpx2.get(f"{server.base_url}/responses/{begun['id']}").json()
    assert texts(items_of(server, conversation_id)) == ["My name is Ada.", "Hi", text_of(ended)]


def test_two_requests_on_one_conversation_at_once_add_their_turns_whole(server: RunningServer) -> None:
    conversation_id = new(server, items=[ADA])

    def ask(text: str) -> dict[str, Any]:
        return create(server, input=text, conversation=conversation_id, max_output_tokens=6)

    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(ask, ["one", "two"])
    said = texts(items_of(server, conversation_id))[1:]
    turns = [["one", text_of(first)], ["two", text_of(second)]]
    assert said in (turns[0] + turns[1], turns[1] + turns[0])


def test_items_that_a_client_sends_back_are_there_once(server: RunningServer) -> None:
    conversation_id = new(server, items=[ADA])
    (said,) = items_of(server, conversation_id)
    create(
        server,
        input=[{"type": "item_reference", "id": said["id"]}, {"role": "user", "content": "Hi"}],
        conversation=conversation_id,
        max_output_tokens=1,
    )
    assert texts(items_of(server, conversation_id))[:2] == ["My name is Ada.", "Hi"]
    again = httpx2.post(f"{server.base_url}/conversations/{conversation_id}/items", json={"items": [said]})
    assert_error(again, 400, "invalid_value", "items")


def test_a_conversation_that_is_deleted_meanwhile_takes_nothing_and_the_answer_says_so(server: RunningServer) -> None:
    conversation_id = new(server, items=[ADA])
    fields = {"input": "Hi", "ignore_eos": True, "max_output_tokens": 200}
    begun = create(server, conversation=conversation_id, background=True, **fields)
    url = f"{server.base_url}/conversations/{conversation_id}"
    assert httpx2.delete(url).json() == {"id": conversation_id, "object": "conversation.deleted", "deleted": True}
    httpx2.get(f"{server.base_url}/responses/{begun['id']}", params={"stream": "true"}, timeout=60)
    ended = httpx2.get(f"{server.base_url}/responses/{begun['id']}").json()
    assert (ended["status"], "conversation" in ended) == ("incomplete", False)
    assert_error(httpx2.get(url), 404, "not_found", "conversation")


def test_bad_requests_are_refused_by_name(server: RunningServer) -> None:
    conversation_id = new(server)
    url = f"{server.base_url}/conversations"
    place = f"{url}/{conversation_id}"
    too_many = [{"role": "user", "content": "x"}] * 21
    for path, body, code, param in (
        (url, {"metadata": {str(i): "" for i in range(17)}}, "invalid_value", "metadata"),
        (url, {"items": too_many}, None, "items"),
        (place, {}, "missing_required_parameter", "metadata"),
        (f"{place}/items", {"items": []}, None, "items"),
        (f"{place}/items", {"items": [{"type": "mcp_call"}]}, "unsupported_value", "items[0].type"),
    ):
        assert_error(httpx2.post(path, json=body), 400, code, param)
    assert_error(httpx2.post(f"{place}/items", json={"items": [{"id": "msg_gone"}]}), 404, param="input")
    assert_error(httpx2.get(f"{place}/items/msg_gone"), 404, "not_found", "item_id")
    assert_error(httpx2.delete(f"{place}/items/msg_gone"), 404, "not_found", "item_id")
    for asked in (httpx2.get(f"{url}/conv_gone"), httpx2.delete(f"{url}/conv_gone"), httpx2.get(f"{url}/resp_1/items")):
        assert_error(asked, 404, "not_found", "conversation")
    assert_error(post(server, input="Hi", conversation="conv_gone"), 404, "not_found", "conversation")
    assert_error(httpx2.get(f"{server.base_url}/responses/{conversation_id}"), 404, "not_found")
    refused = post(server, input="Hi", previous_response_id=conversation_id)
    assert_error(refused, 400, "previous_response_not_found", "previous_response_id")


def test_conversations_belong_to_their_key_outlive_a_restart_and_can_be_off(starter_home: Home) -> None:
    keys = ["sk-first-of-all", "sk-second-of-all"]
    first, second = ({"Authorization": f"Bearer {key}"} for key in keys)
    settings: dict[str, Any] = {"server": {"keys": keys}, "responses": {"store": "disk"}}
    request = {"model": MODEL, "input": "Hi", "max_output_tokens": 2}
    with serving(a_config(**settings), starter_home) as server:
        made = httpx2.post(f"{server.base_url}/conversations", json={"items": [ADA]}, headers=first).json()
        request["conversation"] = made["id"]
        assert httpx2.post(f"{server.base_url}/responses", json=request, headers=first, timeout=60).status_code == 200
    with serving(a_config(**settings), starter_home) as server:
        place = f"{server.base_url}/conversations/{made['id']}"
        assert httpx2.get(place, headers=first).json() == made
        items = httpx2.get(f"{place}/items", headers=first).json()["data"]
        assert texts(items)[-2:] == ["Hi", "My name is Ada."]
        for asked in (
            httpx2.get(place, headers=second),
            httpx2.get(f"{place}/items", headers=second),
            httpx2.delete(f"{place}/items/{items[0]['id']}", headers=second),
            httpx2.delete(place, headers=second),
            httpx2.post(f"{server.base_url}/responses", json=request, headers=second, timeout=60),
        ):
            assert_error(asked, 404, "not_found", "conversation")
    with serving(a_config(responses={"store": "off"}), starter_home) as server:
        assert "responses.store" in assert_error(httpx2.post(f"{server.base_url}/conversations", json={}), 400)


def test_a_conversation_larger_than_its_share_is_refused_and_stays_as_it_was(starter_home: Home) -> None:
    large = {"items": [{"role": "user", "content": "x" * 400_000}]}
    with serving(a_config(responses={"max_mib": 1}), starter_home) as server:
        conversation_id = new(server)
        url = f"{server.base_url}/conversations/{conversation_id}/items"
        assert [httpx2.post(url, json=large).status_code for _ in range(3)] == [200, 200, 400]
        assert len(items_of(server, conversation_id)) == 2
        assert json.loads(httpx2.post(url, json=large).text)["error"]["code"] == "conversation_too_large"

"""A limit of the reasoning's tokens over HTTP: a random model that never ends its reasoning has to answer behind it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from tokenizers import AddedToken

from appliance.home import Home
from tests.conftest import RunningServer, a_config, serving
from tests.quantize.tiny import TEMPLATE
from tests.server.test_recurrent import install
from tests.text.conftest import byte_level_tokenizer

pytestmark = pytest.mark.slow

# One model has a token for the end mark; the other one has to spell it.
MODELS = ("thinker", "speller")
BUDGET = 6
SCHEMA = {
    "type": "object",
    "properties": {"shelf": {"enum": ["left", "right"]}, "lit": {"type": "boolean"}},
    "required": ["shelf", "lit"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "place", "schema": SCHEMA, "strict": True}}
TOOL = {"type": "function", "function": {"name": "place", "parameters": SCHEMA, "strict": True}}
QUESTION = "Where does the lantern stand?"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    home = Home(tmp_path_factory.mktemp("thinking"))
    for name in MODELS:
        tokenizer = byte_level_tokenizer()
        if name == "thinker":
            tokenizer.add_special_tokens([AddedToken("</think>", normalized=False)])
        template = TEMPLATE.replace("assistant\n", "assistant\n<think>\n")
        assert template != TEMPLATE
        install(home, home.root / "made" / name, name=name, template=template, tokenizer=tokenizer)
    with serving(a_config(engine={"slots": 3, "threads": 1, "context_length": 512}), home) as running:
        yield running


def post(server: RunningServer, route: str, **body: Any) -> httpx2.Response:
    return httpx2.post(f"{server.base_url}/{route}", json=body, timeout=60.0)


def chat(server: RunningServer, model: str, **fields: Any) -> Any:
    body = {"max_tokens": 60, "temperature": 1.2, "seed": 5, "ignore_eos": True, **fields}
    answer = post(server, "chat/completions", model=model, messages=[{"role": "user", "content": QUESTION}], **body)
    assert answer.status_code == 200, answer.text
    return answer


def streamed(answer: httpx2.Response) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def check_marks(*texts: str) -> None:
    assert not [text for text in texts if "</think" in text]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("temperature", [0, 1.2])
@pytest.mark.parametrize("logprobs", [False, True])
def test_the_schema_holds_behind_reasoning_of_at_most_the_budget(
    server: RunningServer, model: str, temperature: float, logprobs: bool
) -> None:
    fields = {"response_format": FORMAT, "temperature": temperature, "logprobs": logprobs}
    unlimited = chat(server, model, **fields).json()
    free = unlimited["choices"][0]
    assert unlimited["usage"]["completion_tokens_details"]["reasoning_tokens"] > BUDGET  # it has to be stopped
    fields["thinking_token_budget"] = BUDGET
    plain = chat(server, model, **fields).json()
    choice, usage = plain["choices"][0], plain["usage"]
    value = json.loads(choice["message"]["content"])
    assert value.keys() == SCHEMA["properties"].keys()  # type: ignore[attr-defined]
    assert choice["finish_reason"] == "stop"
    reasoning = choice["message"]["reasoning_content"]
    assert free["message"]["reasoning_content"].startswith(reasoning)
    assert 0 < usage["completion_tokens_details"]["reasoning_tokens"] <= BUDGET + 3
    check_marks(reasoning, choice["message"]["content"])
    if logprobs:
        assert len(choice["logprobs"]["content"]) == usage["completion_tokens"]
    deltas = [c["choices"][0]["delta"] for c in streamed(chat(server, model, stream=True, **fields)) if c["choices"]]
    assert "".join(d.get("content") or "" for d in deltas) == choice["message"]["content"]
    assert "".join(d.get("reasoning_content", "") for d in deltas) == reasoning


@pytest.mark.parametrize("model", MODELS)
def test_a_budget_of_nothing_is_an_answer_at_once(server: RunningServer, model: str) -> None:
    answer = chat(server, model, thinking_token_budget=0, response_format=FORMAT).json()
    message = answer["choices"][0]["message"]
    assert json.loads(message["content"]).keys() == SCHEMA["properties"].keys()  # type: ignore[attr-defined]
    assert "reasoning_content" not in message
    assert answer["usage"]["completion_tokens_details"]["reasoning_tokens"] == 0


@pytest.mark.parametrize("model", MODELS)
def test_a_free_answer_follows_the_reasoning_and_each_choice_has_its_own_limit(
    server: RunningServer, model: str
) -> None:
    choices = chat(server, model, thinking_token_budget=BUDGET, n=3).json()["choices"]
    for choice in choices:
        check_marks(choice["message"]["reasoning_content"])
        assert choice["message"]["content"]  # a model of random weights may say the mark again: that is its text
        assert not choice["message"]["content"].startswith("</think")
    assert len({choice["message"]["content"] for choice in choices}) == 3
    alone = chat(server, model, thinking_token_budget=BUDGET).json()["choices"][0]
    assert alone["message"] == choices[0]["message"]


@pytest.mark.parametrize("model", MODELS)
def test_a_forced_call_follows_the_reasoning(server: RunningServer, model: str) -> None:
    fields = {"tools": [TOOL], "tool_choice": "required", "thinking_token_budget": BUDGET, "max_tokens": 200}
    choice = chat(server, model, **fields).json()["choices"][0]
    (call,) = choice["message"]["tool_calls"]
    assert json.loads(call["function"]["arguments"]).keys() == SCHEMA["properties"].keys()  # type: ignore[attr-defined]
    assert choice["message"]["content"] is None
    assert choice["message"]["reasoning_content"]


@pytest.mark.parametrize("model", MODELS)
def test_responses_take_the_same_limit(server: RunningServer, model: str) -> None:
    form = {"type": "json_schema", "name": "place", "schema": SCHEMA, "strict": True}
    body = {"model": model, "input": QUESTION, "text": {"format": form}, "thinking_token_budget": BUDGET}
    body |= {"max_output_tokens": 60, "temperature": 1.2, "seed": 5, "ignore_eos": True, "store": False}
    plain = post(server, "responses", **body).json()
    assert plain["status"] == "completed", plain
    thought, message = plain["output"]
    said = message["content"][0]["text"]
    assert json.loads(said).keys() == SCHEMA["properties"].keys()  # type: ignore[attr-defined]
    as_chat = chat(server, model, response_format=FORMAT, thinking_token_budget=BUDGET).json()["choices"][0]["message"]
    assert (thought["content"][0]["text"], said) == (as_chat["reasoning_content"], as_chat["content"])
    events = streamed(post(server, "responses", stream=True, **body))
    deltas = {kind: "".join(e["delta"] for e in events if e["type"] == f"response.{kind}.delta") for kind in KINDS}
    assert list(deltas.values()) == [as_chat["reasoning_content"], said]


KINDS = ("reasoning_text", "output_text")


@pytest.mark.parametrize("route", ["chat/completions", "responses"])
@pytest.mark.parametrize("budget", [-2, 1.5, "many"])
def test_a_limit_that_is_no_count_is_refused_by_name(server: RunningServer, route: str, budget: object) -> None:
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": "a"}], "input": "a"}
    answer = post(server, route, model=MODELS[0], thinking_token_budget=budget, **asked)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "thinking_token_budget"

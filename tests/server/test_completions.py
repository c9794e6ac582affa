from __future__ import annotations

from typing import Any

import numpy as np
import openai
import pytest
from openai import OpenAI

from tests.conftest import RunningServer

MODEL = "smollm2-135m-instruct"
_OTHER_GRAPH = 0.8  # of a log-probability: prompts and answers may be read by two graphs, which round differently


@pytest.fixture
def client(server: RunningServer) -> Any:
    with OpenAI(base_url=server.base_url, api_key="any", max_retries=0) as client:
        yield client


def test_text_is_continued(client: OpenAI) -> None:
    answer = client.completions.create(model=MODEL, prompt="One, two, three, four,", temperature=0, max_tokens=6)
    assert "five" in answer.choices[0].text
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 6


def test_sixteen_tokens_are_the_default(client: OpenAI) -> None:
    answer = client.completions.create(
        model=MODEL, prompt="Once upon a time", temperature=0, extra_body={"ignore_eos": True}
    )
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 16


def test_several_prompts_have_their_choices_in_order(client: OpenAI) -> None:
    prompts = ["One, two, three,", "The capital of France is"]
    together = client.completions.create(model=MODEL, prompt=prompts, temperature=0, max_tokens=5, n=2)
    assert [c.index for c in together.choices] == [0, 1, 2, 3]
    for i, prompt in enumerate(prompts):
        alone = client.completions.create(model=MODEL, prompt=prompt, temperature=0, max_tokens=5)
        assert {together.choices[2 * i].text, together.choices[2 * i + 1].text} == {alone.choices[0].text}


def test_streamed_text_equals_plain_text_with_its_echo(client: OpenAI) -> None:
    arguments: Any = {"model": MODEL, "prompt": "Rain falls on", "temperature": 0.9, "seed": 4, "max_tokens": 12}
    plain = client.completions.create(echo=True, **arguments).choices[0]
    assert plain.text.startswith("Rain falls on")
    chunks = list(client.completions.create(echo=True, stream=True, **arguments))
    assert "".join(c.choices[0].text for c in chunks) == plain.text
    assert [c.choices[0].finish_reason for c in chunks if c.choices[0].finish_reason] == [plain.finish_reason]


def test_tokens_are_a_prompt_too(client: OpenAI) -> None:
    logged = client.completions.create(model=MODEL, prompt="Hello", temperature=0, max_tokens=4, logprobs=2)
    found = logged.choices[0].logprobs
    assert found is not None
    assert "".join(found.tokens or []) == logged.choices[0].text
    assert found.text_offset == [sum(len(t) for t in (found.tokens or [])[:i]) for i in range(4)]
    assert all(len(top) <= 2 for top in found.top_logprobs or [])
    tokens = client.completions.create(model=MODEL, prompt=[19556], temperature=0, max_tokens=4)
    assert tokens.usage is not None
    assert tokens.usage.prompt_tokens == 1


def test_an_echo_without_new_tokens(client: OpenAI) -> None:
    answer = client.completions.create(model=MODEL, prompt="Hello", echo=True, max_tokens=0).choices[0]
    assert (answer.text, answer.finish_reason) == ("Hello", "length")


def test_an_echo_tells_how_likely_the_prompt_was(client: OpenAI) -> None:
    arguments: Any = {"model": MODEL, "temperature": 0, "logprobs": 2}
    said = client.completions.create(prompt="The capital of France is", max_tokens=6, **arguments).choices[0]
    text = "The capital of France is" + said.text
    echoed = client.completions.create(prompt=text, echo=True, max_tokens=0, **arguments).choices[0]
    assert said.logprobs is not None
    found = echoed.logprobs
    assert found is not None
    assert echoed.text == "".join(found.tokens or []) == text
    assert (found.text_offset or [])[0] == 0
    for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        assert len(getattr(found, name)) == len(found.tokens or [])
    assert (found.tokens or [])[-6:] == said.logprobs.tokens
    assert (found.text_offset or [])[-6:] == [o + 24 for o in said.logprobs.text_offset or []]
    read = (found.token_logprobs or [])[-6:]
    assert np.abs(np.subtract(read, said.logprobs.token_logprobs)).mean() < 0.3
    assert read == pytest.approx(said.logprobs.token_logprobs, abs=_OTHER_GRAPH)
    for token, top in zip(said.logprobs.tokens or [], (found.top_logprobs or [])[-6:], strict=True):
        assert top.get(token, -100.0) >= max(top.values()) - _OTHER_GRAPH  # two likely ones may swap


def test_nothing_is_known_of_how_likely_a_first_token_was(client: OpenAI) -> None:
    arguments: Any = {"model": MODEL, "echo": True, "logprobs": 1, "max_tokens": 0}
    found = client.completions.create(prompt=[19556, 19556], **arguments).choices[0].logprobs
    assert found is not None
    first, second = found.token_logprobs or []
    assert first is None
    assert second < 0
    assert (found.top_logprobs or [])[0] is None
    assert found.text_offset == [0, len((found.tokens or [""])[0])]


@pytest.mark.parametrize("max_tokens", [0, 5])
def test_a_streamed_echo_with_its_log_probabilities_equals_the_plain_one(client: OpenAI, max_tokens: int) -> None:
    arguments: Any = {
        "model": MODEL,
        "prompt": "Über den Wolken",
        "echo": True,
        "logprobs": 1,
        "max_tokens": max_tokens,
    }
    plain = client.completions.create(temperature=0, **arguments).choices[0]
    chunks = list(client.completions.create(temperature=0, stream=True, **arguments))
    assert "".join(c.choices[0].text for c in chunks) == plain.text
    assert plain.logprobs is not None
    for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        parts = [getattr(c.choices[0].logprobs, name) for c in chunks if c.choices[0].logprobs is not None]
        assert [value for part in parts for value in part] == getattr(plain.logprobs, name)


def test_the_best_of_several_answers_are_given(client: OpenAI) -> None:
    arguments: Any = {"model": MODEL, "prompt": "Once upon a time", "max_tokens": 6, "seed": 3, "temperature": 1.2}
    every = client.completions.create(n=4, logprobs=0, **arguments)
    best = client.completions.create(n=2, best_of=4, **arguments)

    def mean(values: list[float] | None) -> float:
        return sum(values or []) / len(values or [0])

    ranked = sorted(every.choices, key=lambda c: mean(c.logprobs.token_logprobs if c.logprobs else None), reverse=True)
    assert [c.text for c in best.choices] == [c.text for c in ranked[:2]]
    assert [c.index for c in best.choices] == [0, 1]
    assert best.choices[0].logprobs is None
    assert best.usage is not None
    assert every.usage is not None
    assert best.usage.completion_tokens == every.usage.completion_tokens


def test_an_empty_prompt_begins_a_document(client: OpenAI) -> None:
    assert client.completions.create(model=MODEL, prompt="", max_tokens=3).usage is not None


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"prompt": "x", "suffix": "y"}, "suffix"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt[0]"),
        ({"prompt": [10**9]}, "prompt"),
        ({"prompt": {"a": 1}}, "prompt"),
        ({"prompt": "x", "best_of": 2, "n": 3}, "best_of"),
        ({"prompt": "x", "best_of": 9}, "best_of"),
        ({"prompt": "x", "best_of": 3, "stream": True}, "best_of"),
        ({"prompt": "x", "n": 9}, "n"),
        ({"prompt": "x", "logprobs": 6}, "logprobs"),
        ({"prompt": "word " * 4000}, "prompt"),
    ],
)
def test_bad_fields_are_named(client: OpenAI, changes: Any, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model=MODEL, **changes)
    assert caught.value.param == param

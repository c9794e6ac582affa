"""The unmodified SDK as a client of real models."""

from __future__ import annotations

import concurrent.futures
from typing import Any

import httpx2
import openai
import pytest
from openai import OpenAI

from tests.conftest import RunningServer

MODEL = "smollm2-135m-instruct"
QUESTION: Any = [{"role": "user", "content": "Name three colours and say a word about each."}]


@pytest.fixture
def client(server: RunningServer) -> Any:
    with OpenAI(base_url=server.base_url, api_key="any", max_retries=0) as client:
        yield client


def streamed(client: OpenAI, **arguments: Any) -> tuple[str, list[Any]]:
    chunks = list(client.chat.completions.create(stream=True, **arguments))
    return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices), chunks


def test_a_question_is_answered(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Name the capital city of France."}],
        temperature=0,
        max_tokens=12,
    )
    assert "Paris" in (answer.choices[0].message.content or "")
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_streamed_text_equals_plain_text(client: OpenAI, temperature: float) -> None:
    arguments: Any = {"model": MODEL, "messages": QUESTION, "temperature": temperature, "seed": 5, "max_tokens": 60}
    plain = client.chat.completions.create(**arguments)
    text, chunks = streamed(client, stream_options={"include_usage": True}, **arguments)
    assert text == plain.choices[0].message.content
    reasons = [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason]
    assert reasons == [plain.choices[0].finish_reason]
    assert chunks[-1].choices == []
    assert plain.usage is not None
    assert chunks[-1].usage.completion_tokens == plain.usage.completion_tokens
    assert len({(c.id, c.created, c.model) for c in chunks}) == 1
    assert [c.choices[0].delta.role for c in chunks if c.choices].count("assistant") == 1


def test_many_at_once_equal_each_alone(client: OpenAI) -> None:
    def ask(i: int) -> str:
        answer = client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "Tell me about " + "rivers and hills " * (1 + 7 * i)}],
            temperature=0.0 if i % 2 else 0.9,
            seed=i,
            max_tokens=20 + 5 * i,
        )
        return answer.choices[0].message.content or ""

    alone = [ask(i) for i in range(6)]
    with concurrent.futures.ThreadPoolExecutor(6) as threads:
        together = list(threads.map(ask, range(6)))
    assert together == alone


def test_a_stop_string_is_cut_exactly_and_never_leaks(client: OpenAI) -> None:
    unending = {"ignore_eos": True}
    arguments: Any = {"model": MODEL, "messages": QUESTION, "temperature": 0, "max_tokens": 40, "extra_body": unending}
    full = client.chat.completions.create(**arguments).choices[0].message.content or ""
    stop = full[len(full) // 2 : len(full) // 2 + 6]
    expected = full[: full.index(stop)]
    plain = client.chat.completions.create(stop=[stop, "never said"], **arguments)
    assert (plain.choices[0].message.content, plain.choices[0].finish_reason) == (expected, "stop")
    assert streamed(client, stop=stop, **arguments)[0] == expected


def test_the_second_turn_reuses_the_first(client: OpenAI) -> None:
    first = client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0, max_tokens=30)
    turns = [
        *QUESTION,
        {"role": "assistant", "content": first.choices[0].message.content},
        {"role": "user", "content": "And one more?"},
    ]
    second = client.chat.completions.create(model=MODEL, messages=turns, temperature=0, max_tokens=5)
    assert second.usage is not None
    assert second.usage.prompt_tokens_details is not None
    assert first.usage is not None
    assert (second.usage.prompt_tokens_details.cached_tokens or 0) >= first.usage.prompt_tokens - 2


def test_choices_of_one_request_differ_and_are_counted_together(client: OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=1.2, seed=1, max_tokens=20, n=3)
    assert [c.index for c in answer.choices] == [0, 1, 2]
    assert len({c.message.content for c in answer.choices}) == 3
    alone = client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=1.2, seed=1, max_tokens=20)
    assert answer.choices[0].message.content == alone.choices[0].message.content
    _, chunks = streamed(client, model=MODEL, messages=QUESTION, temperature=1.2, seed=1, max_tokens=20, n=3)
    texts = ["", "", ""]
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == [c.message.content for c in answer.choices]


def test_logprobs_spell_the_answer(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=QUESTION, temperature=0, max_tokens=15, logprobs=True, top_logprobs=3
    )
    choice = answer.choices[0]
    assert choice.logprobs is not None
    entries = choice.logprobs.content or []
    assert b"".join(bytes(e.bytes or []) for e in entries).decode() == choice.message.content
    assert all(e.logprob <= 0 and e.top_logprobs[0].token == e.token and len(e.top_logprobs) == 3 for e in entries)
    assert answer.usage is not None
    assert len(entries) == answer.usage.completion_tokens


def test_a_bias_forbids_a_token(client: OpenAI) -> None:
    arguments: Any = {"model": MODEL, "messages": QUESTION, "temperature": 0, "max_tokens": 1, "logprobs": True}
    first = client.chat.completions.create(top_logprobs=1, **arguments).choices[0].message.content
    ids = {str(i): -100 for i in range(0, 49152, 1) if i % 49 != 0}
    biased = client.chat.completions.create(logit_bias=ids, **arguments).choices[0].message.content
    assert biased != first


def test_an_alias_answers_under_its_own_name(client: OpenAI) -> None:
    answer = client.chat.completions.create(model="gpt-4o-mini", messages=QUESTION, max_tokens=2)
    assert answer.model == "gpt-4o-mini"
    assert client.models.retrieve("org/chat:latest").id == "org/chat:latest"
    assert {"gpt-4o-mini", MODEL} <= {m.id for m in client.models.list()}


def test_instructions_anywhere_become_one_system_message(client: OpenAI) -> None:
    def tokens(messages: Any) -> int:
        answer = client.chat.completions.create(model=MODEL, messages=messages, max_tokens=1)
        assert answer.usage is not None
        return answer.usage.prompt_tokens

    user = {"role": "user", "content": "Hi"}
    merged = tokens([{"role": "system", "content": "Be brief.\n\nBe kind."}, user])
    assert merged == tokens(
        [{"role": "system", "content": "Be brief."}, {"role": "developer", "content": "Be kind."}, user]
    )
    parts = [{"type": "text", "text": "Be brief.\n\n"}, {"type": "text", "text": "Be kind."}]
    assert merged == tokens([{"role": "developer", "content": parts}, user])


def test_a_users_special_token_stays_text(client: OpenAI) -> None:
    spelled = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "a<|im_end|>b"}], max_tokens=1
    )
    plain = client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "ab"}], max_tokens=1)
    assert spelled.usage is not None
    assert plain.usage is not None
    assert spelled.usage.prompt_tokens > plain.usage.prompt_tokens + 3


def test_an_unknown_model_is_a_404_that_names_it(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gpt-9", messages=QUESTION)
    assert caught.value.code == "model_not_found"
    assert "gpt-9" in caught.value.message


def test_a_prompt_longer_than_the_context_is_refused_before_the_stream(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "word " * 3000}], stream=True)
    assert caught.value.code == "context_length_exceeded"
    assert "2048" in caught.value.message


def test_more_tokens_than_the_context_holds_are_capped(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=QUESTION, temperature=0, max_completion_tokens=100_000, max_tokens=1
    )
    assert answer.choices[0].finish_reason in {"stop", "length"}
    assert (answer.choices[0].message.content or "") != ""


def test_models_tell_their_context_and_modalities(server: RunningServer) -> None:
    chat, encoder = (
        httpx2.get(f"{server.base_url}/models/{name}").json() for name in ("smollm2-135m-instruct", "all-minilm-l6-v2")
    )
    assert (chat["context_length"], chat["max_model_len"]) == (2048, 2048)
    assert chat["architecture"] == {"input_modalities": ["text"], "output_modalities": ["text"]}
    assert encoder["context_length"] > 0
    assert encoder["architecture"]["output_modalities"] == ["embeddings"]

from __future__ import annotations

import asyncio

import pytest

from appliance.bench.client import Answer, OpenAIClient
from appliance.bench.errors import BenchError, RefusalError
from appliance.bench.probe import Target, find_target, user
from appliance.errors import ModelNotFoundError
from tests.bench.openai_peer import Peer, running


async def probed(peer: Peer, *, chat_model: str | None = None) -> Target:
    async with running(peer), OpenAIClient(peer.url, key=peer.key) as client:
        return await find_target("theirs", client, chat_model=chat_model)


async def answered(peer: Peer, max_tokens: int) -> Answer:
    async with running(peer), OpenAIClient(peer.url) as client:
        target = await find_target("theirs", client)
        return await target.chat([user("Hello there.")], max_tokens)


def test_a_streamed_answer_is_timed_and_counted() -> None:
    answer = asyncio.run(answered(Peer(), 5))
    assert answer.text == "word0 word1 word2 word3 word4 "
    assert answer.num_tokens == 5
    assert answer.num_prompt_tokens == 12
    assert answer.first_text_s is not None
    assert answer.begin_s < answer.first_text_s <= answer.last_event_s
    assert answer.rate is not None


def test_tokens_are_counted_by_pieces_where_no_usage_is_told() -> None:
    assert asyncio.run(answered(Peer(tells_usage=False), 7)).num_tokens == 7


def test_the_rate_counts_the_tokens_after_the_first() -> None:
    answer = Answer(begin_s=10.0, first_text_s=11.0, last_event_s=13.0, num_tokens_told=9)
    assert answer.rate == 4.0
    assert answer.first_token_s == 1.0
    assert Answer(begin_s=10.0, first_text_s=11.0, last_event_s=11.0, num_tokens_told=1).rate is None


def test_a_server_that_takes_every_field_gets_every_field() -> None:
    assert asyncio.run(probed(Peer())).options == {"stream_options": {"include_usage": True}, "ignore_eos": True}


def test_a_peer_that_refuses_ignore_eos_is_asked_without_it() -> None:
    peer = Peer(refused=frozenset({"ignore_eos"}))
    target = asyncio.run(probed(peer))
    assert target.chat_model == "the-model"
    assert target.options == {"stream_options": {"include_usage": True}}
    assert asyncio.run(answered(peer, 4)).num_tokens == 4
    assert "ignore_eos" not in peer.chats[-1]


def test_a_peer_that_refuses_every_extension_is_still_measured() -> None:
    peer = Peer(refused=frozenset({"ignore_eos", "stream_options"}))
    assert asyncio.run(answered(peer, 4)).num_tokens == 4


def test_a_chat_server_without_embeddings_has_no_embedding_model() -> None:
    target = asyncio.run(probed(Peer(embeds=False)))
    assert target.chat_model == "the-model"
    assert target.embedding_model is None


def test_an_unknown_model_is_named_with_those_that_there_are() -> None:
    with pytest.raises(ModelNotFoundError, match=r"'wrong'; it lists: the-model\. It says: no such model"):
        asyncio.run(probed(Peer(), chat_model="wrong"))


def test_a_server_that_can_do_nothing_says_why() -> None:
    with pytest.raises(BenchError, match=r"no model that can be measured.*unknown field messages"):
        asyncio.run(probed(Peer(refused=frozenset({"messages"}), embeds=False)))


def test_a_server_that_wants_a_key_is_a_sentence_about_keys() -> None:
    async def without_key() -> None:
        async with running(Peer(key="secret")) as peer, OpenAIClient(peer.url) as client:
            await find_target("ours", client)

    with pytest.raises(BenchError, match=r"refuses \(401\); give its key with --key"):
        asyncio.run(without_key())
    assert asyncio.run(probed(Peer(key="secret"))).chat_model == "the-model"


def test_an_error_in_the_midst_of_a_stream_is_a_refusal() -> None:
    async def ask() -> None:
        async with running(Peer(fails_midway=True)) as peer, OpenAIClient(peer.url) as client:
            await client.chat("the-model", [user("Hello.")], max_tokens=3)

    with pytest.raises(RefusalError, match="the model fell over"):
        asyncio.run(ask())


@pytest.mark.parametrize("url", ["http://127.0.0.1:{port}", "http://127.0.0.1:{port}/", "http://127.0.0.1:{port}/v1/"])
def test_a_url_may_end_in_v1_or_not(url: str) -> None:
    assert OpenAIClient(url.format(port=8080)).base_url == "http://127.0.0.1:8080/v1"


@pytest.mark.parametrize(
    ("url", "sentence"),
    [("http://127.0.0.1:9", "nothing answers at http://127.0.0.1:9/v1"), ("10.0.0.1", "is not a URL")],
)
def test_a_url_where_nothing_answers_is_one_sentence(url: str, sentence: str) -> None:
    async def ask() -> None:
        async with OpenAIClient(url) as client:
            await find_target("theirs", client)

    with pytest.raises(BenchError, match=sentence):
        asyncio.run(ask())

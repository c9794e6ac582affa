from __future__ import annotations

import asyncio
import contextlib

import pytest

from appliance.bench.alternation import measure
from appliance.bench.chat_loads import NUM_STREAMS, ChatLoads, repeated_share
from appliance.bench.client import OpenAIClient
from appliance.bench.embedding_loads import embedding_loads
from appliance.bench.figures import Figure, Metric
from appliance.bench.loads import Load, Values
from appliance.bench.probe import Target, find_target
from appliance.bench.prompts import TokenRate
from tests.bench.openai_peer import Peer, running

CHAT = ChatLoads(TokenRate(tokens_per_word=1.0, overhead=10.0), num_tokens=8, num_stream_tokens=8)


async def measured(loads: list[Load], *peers: Peer, repeat: int = 1) -> list[list[Figure]]:
    async with contextlib.AsyncExitStack() as stack:
        targets = []
        for peer in peers:
            await stack.enter_async_context(running(peer))
            client = await stack.enter_async_context(OpenAIClient(peer.url))
            targets.append(await find_target(peer.name, client))
            peer.asked.clear()
        for peer in peers:
            if peer.log is not None:
                peer.log.clear()
        return await measure(loads, targets, repeat=repeat)


def test_the_servers_take_turns_within_each_load() -> None:
    log: list[str] = []
    ours, theirs = Peer(name="ours", log=log), Peer(name="theirs", log=log)
    asyncio.run(measured([CHAT.one_stream(128), CHAT.one_stream(512)], ours, theirs, repeat=3))
    assert log == ["ours", "theirs"] * 6


def test_both_servers_get_the_same_prompts_and_no_run_repeats_one() -> None:
    ours, theirs = Peer(), Peer()
    asyncio.run(measured([CHAT.one_stream(128), CHAT.many_streams()], ours, theirs, repeat=3))
    asked = [body["messages"][0]["content"] for body in ours.chats]
    assert sorted(asked) == sorted(body["messages"][0]["content"] for body in theirs.chats)
    assert len(set(asked)) == len(asked) == 3 + 3 * NUM_STREAMS


def test_every_chat_load_gives_a_value_for_every_metric() -> None:
    loads = [CHAT.one_stream(128), CHAT.many_streams(), CHAT.second_turn(), CHAT.repeated_text(), CHAT.schema()]
    [figures] = asyncio.run(measured(loads, Peer(), repeat=2))
    assert [f.metric for f in figures] == [metric for load in loads for metric in load.metrics]
    assert all(len(f.samples) == 2 and not f.note for f in figures)


def test_a_stream_is_asked_for_its_context_in_the_midst_of_the_answer() -> None:
    peer = Peer()
    asyncio.run(measured([CHAT.one_stream(128)], peer))
    [body] = peer.chats
    assert len(body["messages"][0]["content"].split()) == 128 - 8 // 2 - 10
    assert body["max_tokens"] == 8
    assert body["temperature"] == 0


def test_the_second_turn_carries_the_first_answer() -> None:
    peer = Peer()
    asyncio.run(measured([CHAT.second_turn()], peer))
    first, second = (body["messages"] for body in peer.chats)
    assert second[0] == first[0]
    assert second[1]["role"] == "assistant"
    assert second[1]["content"].startswith("word0 word1")


def test_a_server_without_schemas_has_a_row_that_says_so_and_the_others_go_on() -> None:
    [figures] = asyncio.run(
        measured([CHAT.schema(), CHAT.second_turn()], Peer(refused=frozenset({"response_format"})), repeat=2)
    )
    held, _, turn = figures
    assert held.samples == ()
    assert held.note == "not supported (400: unknown field response_format)"
    assert len(turn.samples) == 2


def test_a_refusing_server_does_not_stop_the_other() -> None:
    ours, theirs = asyncio.run(
        measured([CHAT.schema()], Peer(), Peer(refused=frozenset({"response_format"})), repeat=2)
    )
    assert len(ours[0].samples) == 2
    assert theirs[0].note


def test_texts_are_embedded_in_batches_of_the_named_sizes() -> None:
    peer = Peer()
    [figures] = asyncio.run(measured(embedding_loads(), peer))
    batches = {(len(b["input"]), len(b["input"][0].split())) for b in peer.asked if "input" in b}
    assert {(1, 20), (32, 20), (1, 200), (32, 200)} < batches
    assert all(f.samples for f in figures)


def test_a_server_without_an_embedding_model_says_so_in_each_row() -> None:
    [figures] = asyncio.run(measured(embedding_loads(), Peer(embeds=False)))
    assert {f.note for f in figures} == {"not supported (404: this server has no model that embeds)"}


def test_an_answer_too_short_to_tell_leaves_a_note() -> None:
    async def run(_: Target, seed: int) -> Values:
        return (None if seed else 3.0,)

    speed, nothing = Metric("stream", "a", "tok/s"), Metric("stream", "b", "tok/s")

    async def never(_: Target, __: int) -> Values:
        return (None,)

    [[some, none]] = asyncio.run(measured([Load((speed,), run), Load((nothing,), never)], Peer(), repeat=2))
    assert some.samples == (3.0,)
    assert none.note == "the answers were too short to tell"


@pytest.mark.parametrize(
    ("answer", "share"), [("a b c d", 1.0), ("x y z", 0.0), ("a b c x", 0.5), ("", 0.0), ("a b", 0.0)]
)
def test_the_repeated_share_counts_runs_of_three_words(answer: str, share: float) -> None:
    assert repeated_share(answer, "a b c d") == share

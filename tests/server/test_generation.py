"""The one generation path, apart from routes: an engine that counts, and a small real tokenizer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import pytest
from numpy.typing import NDArray

from appliance.engine.engine import Engine
from appliance.engine.loop import AsyncEngine
from appliance.engine.types import Request, SamplingParams, StepPlan
from appliance.errors import UnavailableError
from appliance.server.http.metrics import Metrics
from appliance.server.http.record import RequestRecord
from appliance.server.v1.choice import CompletionReader
from appliance.server.v1.generation import Generation
from appliance.text.tokenizer import Tokenizer
from tests.engine.fake_runner import CountingRunner
from tests.text.conftest import byte_level_tokenizer

TOKENIZER = Tokenizer(byte_level_tokenizer().to_str().encode())
NUM_TOKENS = 60


class GatedRunner(CountingRunner):
    """Takes as many steps as it is let."""

    def __init__(self, *, num_slots: int = 4, num_steps: int = 1000) -> None:
        super().__init__(num_slots=num_slots, vocab_size=TOKENIZER.vocab_size)
        self.gate = threading.Semaphore(num_steps)

    def run(self, plan: StepPlan) -> NDArray[np.float32]:
        assert self.gate.acquire(timeout=10)
        return super().run(plan)


@asynccontextmanager
async def generating(
    runner: GatedRunner, prompts: list[tuple[int, ...]], *, stops: tuple[str, ...] = (), max_wait_s: float = 10.0
) -> AsyncIterator[tuple[Generation, RequestRecord]]:
    async with AsyncEngine(Engine(runner), name="test", capacity=256, max_waiting=4, on_failure=print) as engine:
        params = SamplingParams(temperature=0.0, max_tokens=NUM_TOKENS)
        requests = [Request(f"{i}", prompt, params) for i, prompt in enumerate(prompts)]
        choices = {r.id: CompletionReader(i, TOKENIZER, stops) for i, r in enumerate(requests)}
        record = RequestRecord(Metrics())
        with engine.submit(*requests) as stream:
            num_prompt_tokens = sum(map(len, prompts))
            yield (
                Generation(stream, choices, record, num_prompt_tokens=num_prompt_tokens, max_wait_s=max_wait_s),
                record,
            )


def text_of(first: int, num_tokens: int = NUM_TOKENS) -> str:
    """The text of tokens that follow one another."""
    return b"".join(TOKENIZER.token_bytes(token) for token in range(first, first + num_tokens)).decode()


def test_each_choice_gets_its_own_text_and_the_record_counts_all() -> None:
    async def main() -> None:
        async with generating(GatedRunner(), [(10, 11), (30, 31)]) as (generation, record):
            collected = await generation.collect()
        assert ["".join(p.text for p in pieces) for pieces in collected] == [text_of(12), text_of(32)]
        assert [[p.finish_reason for p in pieces if p.finish_reason] for pieces in collected] == [["length"]] * 2
        assert (generation.num_prompt_tokens, generation.num_completion_tokens) == (4, 2 * NUM_TOKENS)
        assert record.num_generated_tokens == 2 * NUM_TOKENS
        assert record.wait_s is not None
        assert record.first_token_s is not None
        assert record.wait_s <= record.first_token_s

    asyncio.run(main())


def test_a_stop_string_ends_its_choice_at_once_and_the_others_go_on() -> None:
    async def main() -> None:
        runner = GatedRunner(num_steps=10)
        texts, num_plans = ["", ""], 0
        async with generating(runner, [(12, 13), (30, 31)], stops=(text_of(15, 1),)) as (generation, record):
            async for choice, piece in generation.pieces():
                texts[choice.index] += piece.text
                if choice.index == 0 and piece.finish_reason is not None:
                    num_plans = len(runner.plans)
                    runner.gate.release(1000)
        assert texts == [text_of(14, 1), text_of(32)]
        assert [choice.num_tokens for choice in generation.choices] == [2, NUM_TOKENS]
        assert record.num_generated_tokens == 2 + NUM_TOKENS
        assert num_plans <= 10
        assert {plan.num_slots for plan in runner.plans[num_plans + 1 :]} == {1}

    asyncio.run(main())


def test_choices_without_a_slot_in_time_are_refused() -> None:
    async def main() -> None:
        runner = GatedRunner(num_slots=1, num_steps=5)
        async with generating(runner, [(10, 11), (40, 41)], max_wait_s=0.05) as (generation, _):
            with pytest.raises(UnavailableError, match=r"waited 0\.05 s without getting a slot"):
                await generation.collect()
            runner.gate.release(1000)

    asyncio.run(main())

"""Speculative steps never change what is said."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.bundle import BundleStore, DecoderSpec, TrustedKeys
from appliance.engine.engine import Engine
from appliance.engine.runtime.model_runner import OrtModelRunner
from appliance.engine.runtime.prepacked import prepacked
from appliance.engine.types import EngineStats, ModelRunner, Output, Request, SamplingParams, StepPlan, StepVariant
from appliance.home import Home
from appliance.text.tokenizer import Tokenizer
from tests.engine.fake_runner import CountingRunner
from tests.engine.streams import tokens_of


def run(runner: ModelRunner, *requests: Request) -> tuple[list[Output], EngineStats]:
    """Every step takes one tick of the clock, so that a longer one seems to cost no more."""
    engine = Engine(runner, clock=itertools.count().__next__)
    for request in requests:
        engine.add(request)
    outputs: list[Output] = []
    while engine.has_work:
        outputs += engine.step()
    return outputs, engine.stats()


def counting(vocab_size: int, verify_width: int | None = None, *, num_checkpoints: int | None = None) -> CountingRunner:
    return CountingRunner(vocab_size=vocab_size, verify_width=verify_width, num_checkpoints=num_checkpoints)


def test_a_text_that_repeats_takes_fewer_steps() -> None:
    request = Request("a", (1, 2, 3), SamplingParams(temperature=0.0, max_tokens=100))
    plain, before = run(counting(7), request)
    drafted, after = run(counting(7, 6), request)
    assert drafted == plain
    assert after.num_accepted_tokens > 50
    assert after.num_steps < before.num_steps / 3


@given(
    vocab_size=st.integers(3, 12),
    prompt=st.lists(st.integers(0, 2), min_size=1, max_size=30),
    temperature=st.sampled_from([0.0, 0.3, 1.5]),
    seed=st.integers(0, 9),
    max_tokens=st.integers(1, 60),
    stop=st.sets(st.integers(0, 11), max_size=1),
    penalty=st.sampled_from([0.0, 0.7]),
    num_logprobs=st.sampled_from([None, 2]),
    width=st.integers(2, 9),
    num_checkpoints=st.sampled_from([None, 0, 8]),
)
def test_what_is_said_does_not_depend_on_drafts(
    vocab_size: int,
    prompt: list[int],
    temperature: float,
    seed: int,
    max_tokens: int,
    stop: set[int],
    penalty: float,
    num_logprobs: int | None,
    width: int,
    num_checkpoints: int | None,
) -> None:
    params = SamplingParams(
        temperature=temperature,
        seed=seed,
        max_tokens=max_tokens,
        stop_token_ids=frozenset(stop),
        frequency_penalty=penalty,
        num_logprobs=num_logprobs,
    )
    request = Request("a", tuple(prompt), params)
    drafting = counting(vocab_size, width, num_checkpoints=num_checkpoints)
    assert run(drafting, request)[0] == run(counting(vocab_size), request)[0]


def test_a_slot_that_is_nearly_full_takes_single_steps() -> None:
    runner = CountingRunner(capacity=20, vocab_size=3, verify_width=6)
    outputs, _ = run(runner, Request("a", (0, 1, 2), SamplingParams(temperature=0.0, max_tokens=17)))
    assert tokens_of(outputs) == [i % 3 for i in range(17)]


def test_who_decodes_beside_others_takes_single_steps() -> None:
    requests = [Request(f"{i}", (1, 2, 3), SamplingParams(temperature=0.0, max_tokens=50)) for i in range(2)]
    assert run(counting(7, 6), *requests)[1].num_drafted_tokens == 0


def runner_of(home: Home, *, capacity: int = 512) -> tuple[OrtModelRunner, Tokenizer, DecoderSpec]:
    bundle = BundleStore(home.bundles, TrustedKeys.load(home.trusted_keys)).open("smollm2-135m-instruct")
    spec = bundle.manifest.model
    assert isinstance(spec, DecoderSpec)
    runner = OrtModelRunner(
        prepacked(bundle, home.prepacked, use_device=False), spec, num_slots=2, capacity=capacity, num_threads=2
    )
    return runner, Tokenizer.from_file(bundle.path("tokenizer.json")), spec


def test_a_run_of_the_verify_graph_is_bit_for_bit_what_single_steps_are(starter_home: Home) -> None:
    runner, _, spec = runner_of(starter_home)
    width = runner.verify_width
    assert width is not None
    tokens = np.random.default_rng(0).integers(0, spec.vocab_size, 200).tolist()

    def step(row: int, start: int, num_tokens: int, *, variant: StepVariant = "answer") -> np.ndarray:
        ids = np.array([tokens[start : start + num_tokens]], np.int64)
        past = np.array([start], np.int32)
        return runner.run(StepPlan(row, ids, past, np.arange(num_tokens), variant)).copy()

    for row in (0, 1):
        step(row, 0, 150)
    single = np.concatenate([step(0, 150 + i, 1) for i in range(width)])
    assert np.array_equal(single, step(1, 150, width, variant="verify"))
    # What they wrote is the same too, and what a draft wrote beyond its end does not matter.
    assert np.array_equal(step(0, 150 + width, 1), step(1, 150 + width, 1))
    assert np.array_equal(step(0, 152, 1), step(1, 152, 1))


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_the_real_model_says_the_same_in_fewer_steps(starter_home: Home, temperature: float) -> None:
    runner, tokenizer, _ = runner_of(starter_home)
    text = "The red fox ran over the old bridge, then the red fox slept under the tall oak beside the quiet river.\n"
    prompt = tokenizer.encode(text * 4)
    request = Request("a", prompt, SamplingParams(temperature=temperature, seed=5, max_tokens=60))
    drafted, after = run(runner, request)
    runner._verify_width = None
    plain, before = run(runner, request)
    assert tokens_of(drafted) == tokens_of(plain)
    assert after.num_accepted_tokens > 10
    assert after.num_steps < before.num_steps

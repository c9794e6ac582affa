from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from appliance.engine.sampler import _pick, sample
from appliance.engine.types import Request, SamplingParams, Sequence
from appliance.errors import ModelError


def a_sequence(params: SamplingParams, *, prompt: tuple[int, ...] = (1,), generated: tuple[int, ...] = ()) -> Sequence:
    return Sequence(Request("r", prompt, params), [*prompt, *generated])


def draws(logits: list[float], params: SamplingParams, count: int) -> Counter[int]:
    values = np.array(logits, np.float32)
    sequence = a_sequence(params)
    found: Counter[int] = Counter()
    for _ in range(count):
        found[sample(values.copy(), sequence)[0]] += 1
        sequence.tokens.append(0)
    return found


def test_temperature_zero_takes_the_best() -> None:
    assert draws([1, 5, 3], SamplingParams(temperature=0), 5) == {1: 5}


def test_frequencies_follow_the_softmax() -> None:
    probabilities = [0.5, 0.3, 0.2]
    found = draws(list(np.log(probabilities)), SamplingParams(temperature=1.0, seed=7), 4000)
    for token, expected in enumerate(probabilities):
        assert found[token] / 4000 == pytest.approx(expected, abs=0.03)


def test_the_draw_depends_on_seed_and_place_only() -> None:
    logits = np.random.default_rng(0).standard_normal(500).astype(np.float32)
    params = SamplingParams(temperature=1.0, seed=42)
    first = [sample(logits.copy(), a_sequence(params, generated=(3,) * n))[0] for n in range(20)]
    again = [sample(logits.copy(), a_sequence(params, prompt=(9, 9), generated=(5,) * n))[0] for n in range(20)]
    other = [sample(logits.copy(), a_sequence(SamplingParams(seed=43), generated=(3,) * n))[0] for n in range(20)]
    assert first == again
    assert first != other


def test_top_k_leaves_exactly_k_tokens() -> None:
    assert set(draws([5, 4.9, 4.8, 4.7, 4.6], SamplingParams(top_k=2), 300)) == {0, 1}


def test_min_p_leaves_what_is_likely_beside_the_best() -> None:
    logits = list(np.log([0.6, 0.3, 0.1]))
    assert set(draws(logits, SamplingParams(min_p=0.4), 300)) == {0, 1}


@settings(deadline=None)
@given(
    logits=arrays(np.float32, st.integers(1, 400), elements=st.floats(-30, 30, width=32)),
    top_p=st.floats(0.0, 0.999),
    seed=st.integers(0, 2**64 - 1),
)
def test_top_p_draws_only_from_the_smallest_set_that_holds_the_mass(
    logits: np.ndarray, top_p: float, seed: int
) -> None:
    token, _ = sample(logits.copy(), a_sequence(SamplingParams(top_p=top_p, seed=seed)))
    probabilities = np.exp(logits.astype(np.float64) - logits.max())
    probabilities /= probabilities.sum()
    mass_above = probabilities[logits > logits[token]].sum()
    assert mass_above <= top_p + 1e-5


def test_a_bias_decides() -> None:
    assert draws([0, 0, 9], SamplingParams(temperature=0, logit_bias={0: 100.0}), 3) == {0: 3}
    assert draws([0, 0, 9], SamplingParams(temperature=0, logit_bias={2: -100.0}), 1).keys() == {0}


def test_penalties_count_generated_tokens_only() -> None:
    params = SamplingParams(temperature=0, frequency_penalty=1.0, presence_penalty=0.5)
    sequence = a_sequence(params, prompt=(1, 1, 1), generated=(2, 2))
    logits = np.array([0, 4.9, 5, 0], np.float32)
    assert sample(logits, sequence)[0] == 1
    assert logits.tolist() == pytest.approx([0, 4.9, 2.5, 0])


def test_a_repetition_penalty_counts_the_prompt_too() -> None:
    logits = np.array([2.0, -2.0, 1.9], np.float32)
    assert sample(logits, a_sequence(SamplingParams(temperature=0, repetition_penalty=2.0), prompt=(0, 1)))[0] == 2
    assert logits.tolist() == pytest.approx([1.0, -4.0, 1.9])


def test_logprobs_are_those_of_the_model_whatever_the_temperature() -> None:
    logits = np.log(np.array([0.7, 0.2, 0.1], np.float32))
    _, found = sample(logits.copy(), a_sequence(SamplingParams(temperature=0, num_logprobs=2)))
    assert found is not None
    assert found.logprob == pytest.approx(np.log(0.7), abs=1e-5)
    assert [token for token, _ in found.top] == [0, 1]


def test_logits_that_are_not_numbers_end_the_engine() -> None:
    for params in (SamplingParams(temperature=0), SamplingParams(temperature=1.0)):
        with pytest.raises(ModelError):
            sample(np.full(5, np.nan, np.float32), a_sequence(params))


@given(
    size=st.integers(1, 1500),
    seed=st.integers(0, 99),
    share=st.floats(0, 1),
    uniform=st.one_of(st.floats(0, 1, exclude_max=True), st.just(0.0), st.just(1 - 2**-53)),
)
def test_a_pick_lies_where_the_cumulated_weights_pass_the_number(
    size: int, seed: int, share: float, uniform: float
) -> None:
    random = np.random.default_rng(seed)
    weights = (random.random(size) * (random.random(size) < share)).astype(np.float32)
    weights[random.integers(size)] = 1.0
    index = _pick(weights, uniform)
    cumulated = np.cumsum(weights, dtype=np.float64)
    target = uniform * cumulated[-1]
    assert weights[index] > 0
    assert cumulated[index] >= target * (1 - 1e-5)
    assert index == 0 or cumulated[index - 1] <= target * (1 + 1e-5)


@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_a_forbidden_token_is_never_drawn(temperature: float) -> None:
    logits = np.full(2000, -np.inf, np.float32)
    logits[[3, 700, 1999]] = 1.0, 1.1, 0.9
    found = set()
    for seed in range(200):
        sequence = a_sequence(SamplingParams(temperature=temperature, seed=seed))
        found.add(sample(logits.copy(), sequence)[0])
    assert found <= {3, 700, 1999}
    assert temperature < 1 or found == {3, 700, 1999}

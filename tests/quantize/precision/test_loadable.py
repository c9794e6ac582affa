"""A large float decoder answers in int8, and is asked itself about every token of an answer that is measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from appliance.bundle import DecoderSpec
from appliance.engine.types import StepPlan
from quantize.evaluation.answers import continue_greedily
from quantize.evaluation.corrected import corrected
from quantize.evaluation.runners import load_float_runner
from quantize.precision import loadable
from quantize.precision.loadable import loadable_form
from tests.quantize.builder.tiny_graphs import write_graph
from tests.quantize.tiny import VOCAB

pytestmark = pytest.mark.slow

_MAX_TOKENS = 24
_RNG = np.random.default_rng(4)
_PROMPTS = [_RNG.integers(3, VOCAB, n).tolist() for n in (5, 11, 3)]


@pytest.fixture(scope="module", params=["qwen3", "qwen3_moe", "lfm2"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DecoderSpec]:
    return write_graph(tmp_path_factory.mktemp("model"), request.param, is_float=True)


def greedy(folder: Path, spec: DecoderSpec, stops: frozenset[int], prompts: list[list[int]]) -> list[list[int]]:
    runner = load_float_runner(folder, spec, capacity=80, num_slots=len(prompts))
    return continue_greedily(runner, prompts, stops, max_tokens=_MAX_TOKENS)


def test_a_small_model_is_loaded_as_it_is(model: tuple[Path, DecoderSpec], tmp_path: Path) -> None:
    with loadable_form(model[0], tmp_path) as form:
        assert form == model[0]


def test_a_large_one_is_loaded_in_int8_which_says_nearly_the_same(
    model: tuple[Path, DecoderSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loadable, "MOST_FLOAT_BYTES", 0)
    folder, spec = model
    rows = np.arange(len(_PROMPTS[1]))
    plan = StepPlan(0, np.array([_PROMPTS[1]]), np.zeros(1, np.int32), rows)
    with loadable_form(folder, tmp_path) as form:
        assert (form / "model.onnx.data").stat().st_size < (folder / "model.onnx.data").stat().st_size / 2.5
        before, after = (load_float_runner(at, spec, capacity=64).run(plan).copy() for at in (folder, form))
    assert 0 < np.abs(after - before).mean() < 0.1 * before.std()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("draft", ["int8", "nothing", "one token"])
def test_a_corrected_answer_is_what_the_float_model_says(
    model: tuple[Path, DecoderSpec], draft: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loadable, "MOST_FLOAT_BYTES", 0)
    folder, spec = model
    stops = frozenset({greedy(folder, spec, frozenset(), _PROMPTS)[1][9]})  # one answer ends early
    wanted = greedy(folder, spec, stops, _PROMPTS)
    with loadable_form(folder, tmp_path) as form:
        runner = load_float_runner(form, spec, capacity=80, num_slots=len(_PROMPTS))

        def go_on(prompts: Sequence[Sequence[int]], max_tokens: int) -> list[list[int]]:
            if draft == "int8":
                return continue_greedily(runner, prompts, stops, max_tokens=max_tokens)
            if draft == "one token":
                return [[5] * max_tokens for _ in prompts]
            return [[] for _ in prompts]

        drafts = go_on(_PROMPTS, _MAX_TOKENS)
        assert corrected(folder, _PROMPTS, drafts, stops, go_on, max_tokens=_MAX_TOKENS) == wanted

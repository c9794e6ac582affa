"""Drafts with recurrent states: every family says the same with them, and its slots hold the same bits."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from appliance.bundle import DecoderSpec
from appliance.bundle.manifest import MODEL_NAME
from appliance.engine.engine import Engine
from appliance.engine.runtime.model_file import ModelFile
from appliance.engine.runtime.model_runner import OrtModelRunner
from appliance.engine.runtime.preparation import write
from appliance.engine.types import Request, Sampled, SamplingParams, StepPlan, StepVariant
from tests.engine.prophet import Prophet
from tests.quantize.builder.tiny_graphs import write_graph
from tests.quantize.tiny import GRANITE_HYBRID

pytestmark = pytest.mark.slow

_FAMILIES: dict[str, dict[str, Any]] = {
    "lfm2": {},
    "lfm3": {},
    "qwen3_5_text": {},
    "granitemoehybrid": GRANITE_HYBRID,
    "nemotron_h": {},
}
_CAPACITY = 256

Model = tuple[Path, DecoderSpec]


@pytest.fixture(scope="module", params=list(_FAMILIES))
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A random model of each family in its prepared form."""
    root = tmp_path_factory.mktemp(request.param)
    folder, spec = write_graph(root / "graph", request.param, **_FAMILIES[request.param])
    (root / "prepared").mkdir()
    write(folder / MODEL_NAME, root / "prepared")
    return root / "prepared" / MODEL_NAME, spec


def a_runner(model: Model) -> OrtModelRunner:
    path, spec = model
    file = ModelFile(path, is_optimized=True)
    return OrtModelRunner(file, spec, num_slots=2, capacity=_CAPACITY, num_threads=2, checkpoint_bytes=8 << 20)


def a_text(seed: int, length: int, spec: DecoderSpec) -> list[int]:
    return random.Random(seed).choices(range(3, spec.vocab_size), k=length)


def run(runner: OrtModelRunner, tokens: list[int], past: int, variant: StepVariant = "answer") -> np.ndarray:
    plan = StepPlan(0, np.array([tokens]), np.array([past], np.int32), np.arange(len(tokens)), variant)
    return runner.run(plan).copy()


def slot_of(runner: OrtModelRunner, num_tokens: int) -> dict[str, np.ndarray]:
    arrays = runner.slot_arrays(0, num_tokens)
    assert arrays is not None
    return {name: array.copy() for name, array in arrays.items()}


def answer(engine: Engine, *requests: Request) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {request.id: [] for request in requests}
    for request in requests:
        engine.add(request)
        while engine.has_work:
            for output in engine.step():
                if isinstance(output, Sampled):
                    found[output.request_id].append(output.token)
    return found


def test_a_slot_after_part_of_a_draft_holds_the_bits_of_single_steps(model: Model) -> None:
    tokens = a_text(1, 60, model[1])
    stepped = a_runner(model)
    width = stepped.verify_width
    assert width is not None
    run(stepped, tokens[:40], 0, "prompt")
    singles, slots = [], []
    for i in range(width):
        singles.append(run(stepped, tokens[40 + i : 41 + i], 40 + i))
        slots.append(slot_of(stepped, 41 + i))
    for num_accepted in range(1, width + 1):
        drafted = a_runner(model)
        run(drafted, tokens[:40], 0, "prompt")
        logits = run(drafted, tokens[40 : 40 + width], 40, "verify")
        assert np.array_equal(logits, np.concatenate(singles))
        drafted.accept_draft(0, num_accepted)
        found, expected = slot_of(drafted, 40 + num_accepted), slots[num_accepted - 1]
        assert [name for name in expected if not np.array_equal(found[name], expected[name])] == []


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_answers_do_not_depend_on_drafts_and_neither_do_the_next_ones(model: Model, temperature: float) -> None:
    _, spec = model
    for seed in range(3):
        params = SamplingParams(temperature=temperature, seed=seed, max_tokens=40)
        first = Request("first", tuple(a_text(seed, 50, spec)), params)
        runner = a_runner(model)
        runner._verify_width = None
        plain = Engine(runner)
        said = answer(plain, first)["first"]
        second = Request("second", (*first.prompt, *said, *a_text(9, 20, spec)), params)
        expected = {"first": said, **answer(plain, second)}

        engine = Engine(a_runner(model))
        assert engine._drafter is not None
        engine._drafter = Prophet(6, expected, vocab_size=spec.vocab_size, seed=seed)
        assert answer(engine, first, second) == expected
        found, without = engine.stats(), plain.stats()
        assert 0 < found.num_accepted_tokens < found.num_drafted_tokens
        assert found.num_steps < without.num_steps
        assert found.num_cached_tokens == without.num_cached_tokens == 50 + 39

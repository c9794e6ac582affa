"""Built decoders with recurrent layers in the engine: batched equals isolated, and a chat reads only what is new."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import numpy as np
import pytest

from appliance.bundle import DecoderSpec
from appliance.bundle.manifest import MODEL_NAME
from appliance.engine.engine import Engine
from appliance.engine.graphs.onnx_proto import parse
from appliance.engine.graphs.prompt import write_int8_products
from appliance.engine.runtime.model_file import ModelFile
from appliance.engine.runtime.model_runner import OrtModelRunner
from appliance.engine.runtime.preparation import write
from appliance.engine.runtime.product import int4_rows_are_equal
from appliance.engine.scheduler import Scheduler
from appliance.engine.types import Request, Sampled, SamplingParams, StepPlan
from tests.engine.rows import NOT_EQUAL
from tests.quantize.builder.stateful import StatefulRunner
from tests.quantize.builder.tiny_graphs import write_graph

pytestmark = pytest.mark.slow

_CAPACITY, _SLOTS = 256, 4


@pytest.fixture(
    scope="module", params=["lfm2", "qwen3_5_text", "qwen3_moe", "lfm2_moe", "nemotron_h", "nemotron_h in int4"]
)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DecoderSpec]:
    """A random model of each architecture, quantized: its graph and its prepared form in a folder beside it."""
    architecture, _, width = str(request.param).partition(" in ")
    if width == "int4" and not int4_rows_are_equal():
        pytest.skip(NOT_EQUAL)
    folder, spec = write_graph(tmp_path_factory.mktemp(architecture), architecture, bits=4 if width == "int4" else 8)
    (folder / "prepared").mkdir()
    write(folder / MODEL_NAME, folder / "prepared")
    return folder, spec


def a_runner(model: tuple[Path, DecoderSpec], *, num_slots: int = _SLOTS) -> OrtModelRunner:
    folder, spec = model
    file = ModelFile(folder / "prepared" / MODEL_NAME, is_optimized=True)
    return OrtModelRunner(file, spec, num_slots=num_slots, capacity=_CAPACITY, num_threads=1, checkpoint_bytes=8 << 20)


def a_text(seed: int, length: int, spec: DecoderSpec) -> list[int]:
    return random.Random(seed).choices(range(3, spec.vocab_size), k=length)


def a_request(name: str, prompt: list[int], *, temperature: float, num_new: int = 12) -> Request:
    return Request(name, tuple(prompt), SamplingParams(temperature=temperature, seed=len(prompt), max_tokens=num_new))


def answers_of(engine: Engine, requests: list[Request], rng: random.Random) -> dict[str, list[int]]:
    """Run requests that arrive at any time."""
    answers: dict[str, list[int]] = {request.id: [] for request in requests}
    waiting = list(requests)
    while waiting or engine.has_work:
        if waiting and (not engine.has_work or rng.random() < 0.4):
            engine.add(waiting.pop(0))
        for output in engine.step():
            if isinstance(output, Sampled):
                answers[output.request_id].append(output.token)
    return answers


def test_steps_in_place_give_the_bits_of_onnxruntimes_own_memory(model: tuple[Path, DecoderSpec]) -> None:
    folder, spec = model
    runner = a_runner(model)
    reference = StatefulRunner(folder / "prepared" / MODEL_NAME, num_slots=_SLOTS, capacity=_CAPACITY)
    tokens = np.array([a_text(1, 60, spec)])
    begin = 0
    for length in (40, 2, 1, 1, 16):
        ids, past = tokens[:, begin : begin + length], np.array([begin], np.int32)
        plan = StepPlan(1, ids, past, np.arange(length))
        assert np.array_equal(runner.run(plan), reference.run(plan))
        begin += length


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_batched_answers_are_the_isolated_ones(model: tuple[Path, DecoderSpec], temperature: float) -> None:
    _, spec = model
    for seed in range(4):
        rng = random.Random(seed)
        stem = a_text(seed, 100, spec)
        requests = [
            a_request(
                f"r{i}",
                stem[: rng.randrange(101)] + a_text(50 + i, rng.randrange(2, 60), spec),
                temperature=temperature,
            )
            for i in range(6)
        ]
        alone = {r.id: answers_of(Engine(a_runner(model)), [r], rng)[r.id] for r in requests}
        engine = Engine(a_runner(model, num_slots=rng.randrange(2, 5)), Scheduler(chunk_size=16, idle_chunk_size=48))
        assert answers_of(engine, requests, rng) == alone


def test_a_second_turn_reads_the_new_message(model: tuple[Path, DecoderSpec]) -> None:
    _, spec = model
    engine, rng = Engine(a_runner(model)), random.Random(0)
    first = a_text(1, 150, spec)
    answer = answers_of(engine, [a_request("1", first, temperature=0.0)], rng)["1"]
    second = [*first, *answer, *a_text(2, 20, spec)]
    found = answers_of(engine, [a_request("2", second, temperature=0.0)], rng)
    stats = engine.stats()
    assert stats.num_prompt_tokens - stats.num_cached_tokens == 150 + 21
    assert found == answers_of(Engine(a_runner(model)), [a_request("2", second, temperature=0.0)], rng)


def test_the_graph_for_prompts_rounds_no_input_of_a_recurrent_layer(
    model: tuple[Path, DecoderSpec], tmp_path: Path
) -> None:
    write_int8_products(model[0] / "prepared" / MODEL_NAME, tmp_path / "products.onnx")
    graph = parse((tmp_path / "products.onnx").read_bytes()).graph
    rounded = [node.output[0] for node in graph.node]
    assert any("up_proj" in name or "w1_w3" in name for name in rounded)
    assert not [name for name in rounded if "in_proj" in name or "qkv_proj" in name]


def test_chunks_however_cut_give_equal_bits(model: tuple[Path, DecoderSpec]) -> None:
    runner, tokens = a_runner(model), np.array([a_text(1, 90, model[1])])

    def read(cuts: list[int]) -> list[np.ndarray]:
        return [
            runner.run(StepPlan(0, tokens[:, a:b], np.array([a], np.int32), np.arange(b - a), "prompt")).copy()
            for a, b in itertools.pairwise(cuts)
        ]

    whole = read([0, 90])[0]
    for cuts in ([0, 2, 9, 90], [0, 48, 90], [0, 33, 36, 90]):
        assert np.array_equal(whole, np.concatenate(read(cuts)))

"""Gemma 4 in the engine: layers that read the keys and values of others, heads of two widths, per-layer embeddings."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from appliance.bundle import DecoderSpec
from appliance.bundle.manifest import KV_SCALES_NAME, MODEL_NAME
from appliance.engine.engine import Engine
from appliance.engine.graphs.onnx_proto import parse
from appliance.engine.graphs.prompt import write_int8_products
from appliance.engine.graphs.slot_arrays import layout_of
from appliance.engine.runtime.model_file import ModelFile
from appliance.engine.runtime.model_runner import OrtModelRunner
from appliance.engine.runtime.preparation import INT8_NAME, write
from appliance.engine.scheduler import Scheduler
from appliance.engine.types import StepPlan, StepVariant
from tests.quantize.builder.test_in_engine import a_request, a_text, answers_of
from tests.quantize.builder.tiny_graphs import write_graph

pytestmark = pytest.mark.slow

_CAPACITY, _SLOTS, _TOKENS = 256, 4, 90
_OWN = ((1, 32), (1, 64), None, None)  # two layers keep keys and values, and two read them


@dataclass(frozen=True, slots=True)
class Model:
    folder: Path
    spec: DecoderSpec

    @property
    def prepared(self) -> Path:
        return self.folder / "prepared"

    def runner(self, name: str = MODEL_NAME, *, num_slots: int = _SLOTS) -> OrtModelRunner:
        file = ModelFile(self.prepared / name, is_optimized=True)
        return OrtModelRunner(file, self.spec, num_slots=num_slots, capacity=_CAPACITY, num_threads=1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A random model in int8, with the scales of its own keys and values, and its prepared forms."""
    found = Model(*write_graph(tmp_path_factory.mktemp("gemma4"), "gemma4_text"))
    file = ModelFile(found.folder / MODEL_NAME)
    runner = OrtModelRunner(file, found.spec, num_slots=1, capacity=_CAPACITY, num_threads=1)
    run(runner, 0, 0, a_text(9, _TOKENS, found.spec))
    arrays = runner.slot_arrays(0, _TOKENS)
    assert arrays is not None
    peaks = [np.abs(np.asarray(array, np.float32)).max(axis=1).reshape(-1) for array in arrays.values()]
    (np.concatenate(peaks) / 127).astype("<f4").tofile(found.folder / KV_SCALES_NAME)
    found.prepared.mkdir()
    write(found.folder / MODEL_NAME, found.prepared)
    return found


def run(
    runner: OrtModelRunner, slot: int, start: int, tokens: list[int], variant: StepVariant = "answer"
) -> np.ndarray:
    ids, past = np.array([tokens], np.int64), np.array([start], np.int32)
    return runner.run(StepPlan(slot, ids, past, np.arange(len(tokens)), variant)).copy()


def test_a_slot_holds_what_the_manifest_says(model: Model) -> None:
    assert model.spec.kv_shapes == _OWN
    kept = [array.shape for array in layout_of((model.folder / MODEL_NAME).read_bytes()).kv]
    assert kept == [shape for shape in _OWN if shape is not None for _ in range(2)]


def test_the_table_of_per_layer_embeddings_is_held_in_blocks(model: Model) -> None:
    initializers = ir.load(model.folder / MODEL_NAME).graph.initializers
    codes = initializers["embed_per_layer.codes"].const_value
    assert codes is not None
    assert (codes.dtype, tuple(codes.shape)) == (ir.DataType.UINT8, (model.spec.vocab_size, 4 * 32))
    tensors = [value.const_value for value in initializers.values() if value.const_value is not None]
    floats = [tensor for tensor in tensors if tensor.dtype == ir.DataType.FLOAT]
    assert not [tensor.name for tensor in floats if model.spec.vocab_size in tensor.shape.dims]


@pytest.mark.parametrize("name", [MODEL_NAME, INT8_NAME])
def test_batched_answers_are_the_isolated_ones(model: Model, name: str) -> None:
    rng = random.Random(1)
    stem = a_text(1, 100, model.spec)
    requests = [
        a_request(
            f"r{i}",
            stem[: rng.randrange(101)] + a_text(50 + i, rng.randrange(2, 60), model.spec),
            temperature=0.9,
        )
        for i in range(4)
    ]
    alone = {r.id: answers_of(Engine(model.runner(name)), [r], rng)[r.id] for r in requests}
    engine = Engine(model.runner(name, num_slots=3), Scheduler(chunk_size=16, idle_chunk_size=48))
    assert answers_of(engine, requests, rng) == alone


@pytest.mark.parametrize("name", [MODEL_NAME, INT8_NAME])
def test_a_draft_gets_the_bits_of_single_steps(model: Model, name: str) -> None:
    runner, tokens = model.runner(name), a_text(2, 40, model.spec)
    width = runner.verify_width
    assert width is not None
    prompt, more = tokens[:30], tokens[30 : 30 + width]
    run(runner, 0, 0, prompt)
    run(runner, 1, 0, prompt)
    single = np.concatenate([run(runner, 0, 30 + i, [token]) for i, token in enumerate(more)])
    assert np.array_equal(single, run(runner, 1, 30, more, "verify"))
    for old, new in zip(kept(runner, 0, 30 + width), kept(runner, 1, 30 + width), strict=True):
        assert np.array_equal(old, new)


def test_chunks_however_cut_give_equal_bits(model: Model) -> None:
    runner, tokens = model.runner(), a_text(3, _TOKENS, model.spec)

    def read(cuts: list[int]) -> np.ndarray:
        return np.concatenate([run(runner, 0, a, tokens[a:b], "prompt") for a, b in itertools.pairwise(cuts)])

    whole = read([0, 90])
    for cuts in ([0, 2, 9, 90], [0, 48, 90], [0, 33, 36, 90]):
        assert np.array_equal(whole, read(cuts))


def test_a_second_turn_reads_the_new_message(model: Model) -> None:
    engine, rng = Engine(model.runner()), random.Random(0)
    first = a_text(1, 100, model.spec)
    answer = answers_of(engine, [a_request("1", first, temperature=0.0)], rng)["1"]
    second = [*first, *answer, *a_text(2, 20, model.spec)]
    found = answers_of(engine, [a_request("2", second, temperature=0.0)], rng)
    stats = engine.stats()
    assert stats.num_prompt_tokens - stats.num_cached_tokens <= 100 + 21
    assert found == answers_of(Engine(model.runner()), [a_request("2", second, temperature=0.0)], rng)


def test_int8_keys_and_values_take_a_quarter_and_give_the_logits_of_the_same_values_in_float(model: Model) -> None:
    tokens = a_text(4, _TOKENS + 1, model.spec)
    full, small = model.runner(), model.runner(INT8_NAME)
    for runner in (full, small):
        run(runner, 0, 0, tokens[:-1])
    scales, at = np.fromfile(model.folder / KV_SCALES_NAME, "<f4"), 0
    for codes, floats in zip(kept(small, 0, _TOKENS), kept(full, 0, _TOKENS), strict=True):
        heads, _, width = codes.shape
        assert codes.nbytes * 4 == floats.nbytes
        floats[:] = codes * scales[at : at + heads * width].reshape(heads, 1, width)
        at += heads * width
    expected, found = (run(runner, 0, _TOKENS, tokens[-1:]) for runner in (full, small))
    assert not np.array_equal(expected, found)  # the last token's own are rounded in one of them
    assert np.abs(expected - found).max() < 0.1 * expected.std()


def test_the_graph_for_prompts_rounds_no_product_around_per_layer_embeddings(model: Model, tmp_path: Path) -> None:
    write_int8_products(model.prepared / MODEL_NAME, tmp_path / "products.onnx")
    rounded = [node.output[0] for node in parse((tmp_path / "products.onnx").read_bytes()).graph.node]
    assert any("gate_up_proj" in name for name in rounded)
    assert not [name for name in rounded if "per_layer" in name or "q_proj" in name or "qkv_proj" in name]


def kept(runner: OrtModelRunner, slot: int, num_tokens: int) -> list[np.ndarray]:
    """Return views of the keys and values of a slot."""
    arrays = runner.slot_arrays(slot, num_tokens)
    assert arrays is not None
    return list(arrays.values())

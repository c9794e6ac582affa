"""Drafts of models with recurrent layers, on onnxruntime's operators and on those of Lantern's kernels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from appliance.bundle.manifest import KV_SCALES_NAME, MODEL_NAME
from appliance.engine.checkpoints import DISTANCE
from appliance.engine.engine import Engine
from appliance.engine.graphs.blocks import write_block_products
from appliance.engine.kernels import KernelLibrary
from appliance.engine.runtime.kernel_trial import packing
from appliance.engine.runtime.model_file import BLOCKS_DATA_NAME, ModelFile, variant_path
from appliance.engine.runtime.model_runner import OrtModelRunner
from appliance.engine.runtime.preparation import write, write_variants
from appliance.engine.types import Request, SamplingParams
from tests.engine.asking import a_request, a_text, answers_of, num_read
from tests.engine.hybrid import SPEC, VOCAB_SIZE, hybrid_graph, hybrid_runner, token_bytes
from tests.engine.prophet import Prophet
from tests.engine.rows import assert_same_arrays


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> ModelFile:
    """The prepared form, with scales for keys and values in int8."""
    root = tmp_path_factory.mktemp("prepared")
    (root / "source.onnx").write_bytes(hybrid_graph())
    np.full(token_bytes() // 4, 0.02, "<f4").tofile(root / KV_SCALES_NAME)
    (root / "made").mkdir()
    write(root / "source.onnx", root / "made")
    return ModelFile(root / "made" / MODEL_NAME, is_optimized=True)


@pytest.fixture(scope="module", params=["stock", "kernels"])
def prepared(request: pytest.FixtureRequest, stock: ModelFile, tmp_path_factory: pytest.TempPathFactory) -> ModelFile:
    """Each of both forms, the second with the products and the convolutions of Lantern's kernels."""
    if request.param == "stock":
        return stock
    library: KernelLibrary = request.getfixturevalue("library")
    folder = tmp_path_factory.mktemp("kernels")
    write_block_products(stock.path, folder / MODEL_NAME, BLOCKS_DATA_NAME, packing(library))
    write_variants(folder, np.full(token_bytes() // 4, 0.02, np.float32))
    assert b"CausalConvRows" in variant_path(folder / MODEL_NAME, "replay").read_bytes()
    return replace(stock, path=folder / MODEL_NAME, kernels=library.path)


def prepared_runner(form: ModelFile, name: str = MODEL_NAME) -> OrtModelRunner:
    file = replace(form, path=form.path.with_name(name))
    return OrtModelRunner(file, SPEC, num_slots=2, capacity=512, num_threads=1, checkpoint_bytes=1 << 20)


def test_the_prepared_form_answers_alike(tmp_path: Path, stock: ModelFile) -> None:
    request = a_request("a", a_text(1, 90))
    runner = prepared_runner(stock)
    assert runner.verify_width is not None
    assert answers_of(Engine(runner), request) == answers_of(Engine(hybrid_runner(tmp_path)), request)


@pytest.mark.parametrize("name", ["model.onnx", "model.int8.onnx"])
@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_drafts_leave_the_bits_of_single_steps_with_float_and_int8_keys(
    prepared: ModelFile, name: str, temperature: float
) -> None:
    request = a_request("a", a_text(1, 200), num_new=80, temperature=temperature, seed=4)
    single, drafted = prepared_runner(prepared, name), prepared_runner(prepared, name)
    single._verify_width = None
    expected = answers_of(Engine(single), request)
    engine = Engine(drafted)
    engine._drafter = Prophet(6, expected, vocab_size=VOCAB_SIZE)
    assert answers_of(engine, request) == expected
    assert 20 < engine.stats().num_accepted_tokens < engine.stats().num_drafted_tokens
    found, wanted = drafted.slot_arrays(0, 279), single.slot_arrays(0, 279)
    assert_same_arrays(found, wanted)


def test_a_checkpoint_within_a_drafted_answer_is_the_state_there(prepared: ModelFile) -> None:
    long = SamplingParams(temperature=0.0, max_tokens=300)
    request = Request("a", tuple(a_text(1, 100)), long)
    said = answers_of(Engine(prepared_runner(prepared)), request)["a"]
    engine = Engine(prepared_runner(prepared))
    engine._drafter = Prophet(6, {"a": said, "b": []}, vocab_size=VOCAB_SIZE)
    assert answers_of(engine, request)["a"] == said
    assert engine.stats().num_accepted_tokens > 100
    before = num_read(engine)
    other = a_request("b", [*request.prompt, *said[:290], *a_text(2, 30)])
    found = answers_of(engine, other)
    assert (
        num_read(engine) - before < 30 + 290 - DISTANCE + 8 + 6
    )  # behind the end of the prompt, and within the answer
    assert found == answers_of(Engine(prepared_runner(prepared)), other)

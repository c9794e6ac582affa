"""Decoders on another device: the same graph and cache with the processor as the device, which computes float16 too.

What a GPU's kernels do is tried where onnxruntime has one.
"""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest

from appliance.bundle import Bundle, BundleStore, DecoderSpec, TrustedKeys
from appliance.bundle.manifest import MODEL_NAME
from appliance.engine.graphs.onnx_proto import parse, set_attribute
from appliance.engine.graphs.variants import with_fp16_kv
from appliance.engine.runtime import gpu as device
from appliance.engine.runtime import model_runner
from appliance.engine.runtime.gpu_kv_cache import DeviceKVCache
from appliance.engine.runtime.gpu_trial import agree
from appliance.engine.runtime.model_file import DeviceGraph, ModelFile
from appliance.engine.runtime.model_runner import OrtModelRunner
from appliance.engine.runtime.prepacked import prepacked
from appliance.engine.runtime.provider import CPU, accelerators
from appliance.engine.types import StepPlan
from appliance.errors import ModelError
from appliance.home import Home
from appliance.models.loaded import ChatModel, EngineSettings
from appliance.models.loading import load_model


@pytest.fixture(scope="module")
def bundle(starter_home: Home) -> Bundle:
    store = BundleStore(starter_home.bundles, TrustedKeys.load(starter_home.trusted_keys))
    return store.open("smollm2-135m-instruct")


def a_runner(bundle: Bundle, file: ModelFile, *, capacity: int = 256) -> OrtModelRunner:
    spec = bundle.manifest.model
    assert isinstance(spec, DecoderSpec)
    return OrtModelRunner(file, spec, num_slots=3, capacity=capacity, num_threads=2)


def a_file(bundle: Bundle, folder: Path, graph: bytes, provider: str = CPU) -> ModelFile:
    path = folder / "device.onnx"
    path.write_bytes(graph)
    return ModelFile(path, device=DeviceGraph(path, provider, bundle.folder.resolve()))


@pytest.fixture(scope="module")
def processor(bundle: Bundle, starter_home: Home) -> OrtModelRunner:
    return a_runner(bundle, prepacked(bundle, starter_home.prepacked, use_device=False))


def test_attention_in_float16_says_what_the_processor_says(
    bundle: Bundle, processor: OrtModelRunner, tmp_path: Path
) -> None:
    graph = with_fp16_kv(bundle.path(MODEL_NAME).read_bytes())
    other = a_runner(bundle, a_file(bundle, tmp_path, graph))
    assert isinstance(other._cache, DeviceKVCache)
    assert agree(processor, other)


# Only a GPU's own kernels can show what they compute: with onnxruntime's GPU wheel on such a board, this one runs.
@pytest.mark.skipif(not accelerators(), reason="this onnxruntime has no provider but the processor")
@pytest.mark.parametrize("provider", accelerators())
def test_a_gpu_says_what_the_processor_says(
    bundle: Bundle, processor: OrtModelRunner, tmp_path: Path, provider: str
) -> None:
    graph = with_fp16_kv(bundle.path(MODEL_NAME).read_bytes())
    assert agree(processor, a_runner(bundle, a_file(bundle, tmp_path, graph, provider)))


def test_a_device_that_computes_something_else_is_refused(
    bundle: Bundle, processor: OrtModelRunner, tmp_path: Path
) -> None:
    model = parse(with_fp16_kv(bundle.path(MODEL_NAME).read_bytes()))
    attention = [node for node in model.graph.node if node.op_type == "GroupQueryAttention"]
    set_attribute(attention[4], "local_window_size", i=4, type=2)  # one layer of thirty forgets
    assert not agree(processor, a_runner(bundle, a_file(bundle, tmp_path, model.SerializeToString())))


def test_rows_move_on_the_device_bit_by_bit(bundle: Bundle, tmp_path: Path) -> None:
    runner = a_runner(bundle, a_file(bundle, tmp_path, with_fp16_kv(bundle.path(MODEL_NAME).read_bytes())))
    random = np.random.default_rng(5)
    prompts = [random.integers(100, 30_000, (1, 20)) for _ in range(2)]

    def read(row: int, prompt: int) -> np.ndarray:
        return runner.run(StepPlan(row, prompts[prompt], np.array([0], np.int32), np.array([19]), "prompt")).copy()

    def step(row: int) -> np.ndarray:
        return runner.run(StepPlan(row, np.array([[77]]), np.array([20], np.int32), np.array([0]))).copy()

    read(0, 0)
    read(1, 1)
    first, second = step(0), step(1)
    assert not np.array_equal(first, second)
    runner.swap_slots(0, 1, 20)
    assert np.array_equal(step(1), first)
    assert np.array_equal(step(0), second)
    runner.copy_slot(1, 2, 20)
    assert np.array_equal(step(2), first)
    assert np.array_equal(step(1), first)


def test_a_graph_without_attention_is_refused() -> None:
    with pytest.raises(ModelError, match="no GroupQueryAttention"):
        with_fp16_kv(b"")


@pytest.fixture
def folder(bundle: Bundle, starter_home: Home, tmp_path: Path) -> Path:
    """A prepacked form of its own, in which a trial may write, beside the others, which hold their choice."""
    made = prepacked(bundle, starter_home.prepacked, use_device=False).path.parent
    target = tmp_path / "prepacked" / bundle.name
    shutil.copytree(made.parent, target)
    return target / made.name


def test_a_trial_is_made_once_and_its_answer_kept(
    bundle: Bundle, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(device, "accelerators", lambda: [CPU])
    with caplog.at_level(logging.INFO):
        device.device_graph(bundle, folder)
    assert "times as fast" in caplog.text
    chosen = json.loads((folder / "device.json").read_text())["provider"]
    assert chosen in (CPU, None)  # the same processor, with other rounding: either may be a little faster
    caplog.clear()
    with caplog.at_level(logging.INFO):
        assert (device.device_graph(bundle, folder) is None) == (chosen is None)
    assert "times as fast" not in caplog.text


def test_a_provider_that_is_not_there_is_not_remembered(
    bundle: Bundle, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "accelerators", lambda: ["NoExecutionProvider"])
    assert device.device_graph(bundle, folder) is None
    assert not (folder / "device.json").exists()


def test_a_chosen_device_serves_a_model(
    bundle: Bundle, folder: Path, starter_home: Home, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(device, "accelerators", lambda: [CPU])
    a_file(bundle, folder, with_fp16_kv(bundle.path(MODEL_NAME).read_bytes()))
    (folder / "device.json").write_text(json.dumps({"provider": CPU}))
    cache = folder.parent.parent
    file = prepacked(bundle, cache)
    assert file.device is not None
    assert prepacked(bundle, cache, use_device=False).device is None
    assert prepacked(bundle, cache, cache_type="int8").device is None

    def fails(*_: object, **__: object) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(model_runner, "DeviceKVCache", fails)
    loaded = load_model(bundle, EngineSettings(), cache=cache, on_failure=lambda _: None)
    assert isinstance(loaded, ChatModel)
    assert "runs on the processor: keys and values do not fit" in caplog.text

"""The fused graph computes the same as torch, in steps of any length."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from appliance.engine.runtime.model_file import ModelFile
from appliance.engine.runtime.model_runner import OrtModelRunner
from appliance.engine.types import StepPlan
from appliance.errors import QuantizeError
from quantize.fusion.export import DECODER_TASK, export
from quantize.fusion.fuse import fuse, fuse_file
from quantize.quiet import quiet
from quantize.sources.decoder_config import read_decoder_config
from tests.quantize.tiny import DECODERS, VOCAB, tiny_spec, write_decoder

pytestmark = pytest.mark.slow

_CHUNKS = ((0, 17), (17, 26), (26, 27), (27, 28), (28, 30))


@pytest.mark.parametrize("architecture", sorted(DECODERS))
def test_the_fused_graph_equals_torch_through_chunks_and_rows_of_different_length(
    architecture: str, tmp_path: Path
) -> None:
    checkpoint = write_decoder(tmp_path / "checkpoint", architecture)
    config = read_decoder_config(checkpoint)
    (tmp_path / "fused").mkdir()
    export(checkpoint, tmp_path / "exported", task=DECODER_TASK)
    fuse_file(tmp_path / "exported", tmp_path / "fused", config, context_length=64)
    rng = np.random.default_rng(0)
    rows = [rng.integers(3, VOCAB, n) for n in (30, 12, 21)]
    expected = torch_logits(checkpoint, rows)
    spread = float(expected[0].std())
    runner = OrtModelRunner(
        ModelFile(tmp_path / "fused" / "model.onnx"), tiny_spec(config), num_slots=3, capacity=64, num_threads=1
    )

    chunked = [run_chunk(runner, 0, rows[0][lo:hi], lo) for lo, hi in _CHUNKS]
    assert np.abs(np.concatenate(chunked) - expected[0]).max() <= 1e-4 * spread

    lens = np.array([10, 3, 7], np.int32)
    for row, length in enumerate(lens):
        run_chunk(runner, row, rows[row][:length], 0)
    for _ in range(5):
        tokens = np.array([[rows[row][length]] for row, length in enumerate(lens)])
        logits = runner.run(StepPlan(0, tokens, lens, np.arange(3)))
        wanted = np.stack([expected[row][length] for row, length in enumerate(lens)])
        assert np.abs(logits - wanted).max() <= 1e-4 * spread
        lens = lens + np.int32(1)


def test_a_layer_becomes_one_attention_and_two_skip_norms_with_one_packed_projection(exported_llama: Path) -> None:
    model = ir.load(exported_llama / "model.onnx")
    ops = fuse(model, read_decoder_config(exported_llama), context_length=64)
    assert ops["GroupQueryAttention"] == 2
    assert ops["SkipSimplifiedLayerNormalization"] == 4
    assert ops["MatMul"] == 2 * 4 + 1
    assert not ops["Softmax"]


@pytest.mark.parametrize("architecture", ["qwen3", "gemma3_text"])
def test_queries_and_keys_that_are_normed_still_come_from_one_product(architecture: str, tmp_path: Path) -> None:
    checkpoint = write_decoder(tmp_path / "checkpoint", architecture)
    export(checkpoint, tmp_path / "exported", task=DECODER_TASK)
    ops = fuse(ir.load(tmp_path / "exported" / "model.onnx"), read_decoder_config(checkpoint), context_length=64)
    assert ops["MatMul"] == 2 * 4 + 1
    assert ops["Split"] == 2 * 2


def test_a_joined_gate_and_up_is_split_without_asking_for_its_width(tmp_path: Path) -> None:
    checkpoint = write_decoder(tmp_path / "checkpoint", "phi3")
    export(checkpoint, tmp_path / "exported", task=DECODER_TASK)
    ops = fuse(ir.load(tmp_path / "exported" / "model.onnx"), read_decoder_config(checkpoint), context_length=64)
    assert ops["Split"] == 2
    assert not ops.keys() & {"Shape", "Slice", "Div"}


def test_an_operator_that_is_not_known_is_refused_with_the_nodes_name(exported_llama: Path) -> None:
    model = ir.load(exported_llama / "model.onnx")
    sigmoid = next(node for node in model.graph if node.op_type == "Sigmoid")
    experts = ir.node("TopK", [sigmoid.inputs[0]], num_outputs=1, name="/layers.0/mlp/TopK")
    experts.outputs[0].name = "best"
    model.graph.insert_before(sigmoid, experts)
    sigmoid.replace_input_with(0, experts.outputs[0])
    with pytest.raises(QuantizeError, match=r"/layers\.0/mlp/TopK \(TopK\)"):
        fuse(model, read_decoder_config(exported_llama), context_length=64)


def test_soft_capped_scores_are_refused_with_the_nodes_name(exported_llama: Path) -> None:
    model = ir.load(exported_llama / "model.onnx")
    softmax = next(node for node in model.graph if node.op_type == "Softmax")
    capped = ir.node("Tanh", [softmax.inputs[0]], name="/softcap/Tanh")
    capped.outputs[0].name = "capped"
    model.graph.insert_before(softmax, capped)
    softmax.replace_input_with(0, capped.outputs[0])
    with pytest.raises(QuantizeError, match=r"/softcap/Tanh \(Tanh\)"):
        fuse(model, read_decoder_config(exported_llama), context_length=64)


def test_a_graph_with_fewer_layers_than_the_config_is_refused(exported_llama: Path) -> None:
    from dataclasses import replace

    config = replace(read_decoder_config(exported_llama), num_layers=3)
    with pytest.raises(QuantizeError, match="4 K/V inputs; 6"):
        fuse(ir.load(exported_llama / "model.onnx"), config, context_length=64)


@pytest.fixture(scope="module")
def exported_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("llama")
    export(write_decoder(root / "checkpoint", "llama"), root / "exported", task=DECODER_TASK)
    return root / "exported"


def run_chunk(runner: OrtModelRunner, row: int, tokens: NDArray[np.int64], past: int) -> NDArray[np.float32]:
    plan = StepPlan(row, tokens[None], np.array([past], np.int32), np.arange(len(tokens), dtype=np.int64))
    return runner.run(plan)


def torch_logits(checkpoint: Path, rows: list[NDArray[np.int64]]) -> list[NDArray[np.float32]]:
    with quiet():
        import torch
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(checkpoint, attn_implementation="eager").eval()
        with torch.no_grad():
            return [model(torch.from_numpy(row)[None]).logits[0].numpy() for row in rows]

"""A checkpoint with equal weights, as every fresh one has: torch exports each of them once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from appliance.engine.runtime.model_file import ModelFile
from appliance.engine.runtime.model_runner import OrtModelRunner
from quantize.fusion.export import DECODER_TASK, export
from quantize.fusion.fuse import fuse_file
from quantize.quiet import quiet
from quantize.sources.decoder_config import read_decoder_config
from tests.quantize.fusion.test_fuse import run_chunk, torch_logits
from tests.quantize.tiny import VOCAB, tiny_spec, write_decoder

_NORMS = ("layernorm.weight", "norm.weight")


@pytest.mark.parametrize(
    ("architecture", "equal", "value"),
    [
        ("qwen3", _NORMS, 1.0),
        ("qwen3", ("q_norm.weight", "k_norm.weight"), 1.0),
        ("gemma3_text", _NORMS, 0.0),
        ("llama", _NORMS, 1.0),
        ("qwen2", ("bias",), 0.0),
        ("llama", ("k_proj.weight", "v_proj.weight"), None),
        ("llama", ("gate_proj.weight", "up_proj.weight"), None),
    ],
)
def test_equal_weights_are_fused_like_others(
    architecture: str, equal: tuple[str, ...], value: float | None, tmp_path: Path
) -> None:
    checkpoint = write_decoder(tmp_path / "checkpoint", architecture)
    make_equal(checkpoint / "model.safetensors", equal, value)
    config = read_decoder_config(checkpoint)
    (tmp_path / "fused").mkdir()
    export(checkpoint, tmp_path / "exported", task=DECODER_TASK)
    fuse_file(tmp_path / "exported", tmp_path / "fused", config, context_length=64)
    row = np.random.default_rng(0).integers(3, VOCAB, 20)
    expected = torch_logits(checkpoint, [row])[0]
    runner = OrtModelRunner(
        ModelFile(tmp_path / "fused" / "model.onnx"), tiny_spec(config), num_slots=1, capacity=64, num_threads=1
    )
    assert np.abs(run_chunk(runner, 0, row, 0) - expected).max() <= 1e-4 * expected.std()


def make_equal(path: Path, endings: tuple[str, ...], value: float | None) -> None:
    """Set all tensors with these endings to the value, or in each layer to the first of them."""
    with quiet():
        import torch
        from safetensors.torch import load_file, save_file

    tensors = load_file(path)
    for layer in range(2):
        names = [name for name in tensors if name.endswith(endings) and (f".{layer}." in name or value is not None)]
        for name in names:
            filled = torch.full_like(tensors[name], value) if value is not None else tensors[names[0]].clone()
            tensors[name] = filled
    save_file(tensors, path, {"format": "pt"})

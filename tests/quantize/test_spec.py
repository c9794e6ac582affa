"""The memory that a manifest tells, for a model of any size: the device reads it, and a device of 0.1.0 does too."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.bundle import DecoderSpec
from quantize.spec import load_graph_spec, save_graph_spec, with_memory

_READ_BY_0_1_0 = 1 << 31
SPEC = DecoderSpec(
    architecture="llama",
    context_length=1024,
    vocab_size=500,
    num_layers=2,
    num_kv_heads=2,
    head_dim=16,
    eos_token_ids=(2,),
)


@pytest.mark.parametrize(
    ("files", "kept", "passing"), [(10, 0, 20), (10, 5, 20), (491_000_000, 130_000_000, 9 << 30), (5 << 30, 3 << 30, 9)]
)
def test_memory_of_any_size_is_told(files: int, kept: int, passing: int, tmp_path: Path) -> None:
    save_graph_spec(tmp_path, with_memory(SPEC, files=files, kept=kept, passing=passing))
    found = load_graph_spec(tmp_path)
    assert found.weights_bytes == (files + kept if kept else None)
    assert found.loading_bytes == min(files + kept + passing, _READ_BY_0_1_0)

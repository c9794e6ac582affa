"""The canonical config.json is one that the workstation's transformers reads, and says the same when read again."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import numpy as np
import pytest

from quantize.quiet import quiet
from quantize.sources.decoder_keys import read_decoder_keys
from quantize.sources.prepare import write_config
from quantize.sources.rotations import rotations
from tests.quantize.sources.published import DECODERS

_USUAL = float(np.float32(math.sqrt(1 + math.log(32) / math.log(4096))))  # as a GGUF file of Phi-4-mini has it


@pytest.mark.parametrize("factor", [None, _USUAL])
def test_longrope_of_phi_is_written_as_transformers_4_reads_it(factor: float | None, tmp_path: Path) -> None:
    raw = copy.deepcopy(DECODERS["Phi-4-mini"])
    if factor is not None:
        raw["rope_scaling"]["attention_factor"] = factor
    keys = read_decoder_keys(raw).config
    write_config(tmp_path, keys)
    written = json.loads((tmp_path / "config.json").read_text())
    assert set(written["rope_scaling"]) == {"type", "short_factor", "long_factor"}
    assert rotations(read_decoder_keys(written).config) == rotations(keys)
    with quiet():
        from transformers import AutoConfig

        assert AutoConfig.from_pretrained(tmp_path).rope_scaling["type"] == "longrope"


def test_another_attention_factor_stays(tmp_path: Path) -> None:
    raw = copy.deepcopy(DECODERS["Phi-4-mini"])
    raw["rope_scaling"]["attention_factor"] = 1.5
    keys = read_decoder_keys(raw).config
    write_config(tmp_path, keys)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["rope_scaling"]["attention_factor"] == 1.5
    assert rotations(read_decoder_keys(written).config) == rotations(keys)

"""A source is judged without a build."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.errors import QuantizeError
from quantize.sources.inspection import inspect_source
from tests.quantize.tiny import change_json, write_decoder, write_encoder
from tests.quantize.tiny_gguf import write_gguf


def test_a_decoder_says_what_it_is_and_needs(tmp_path: Path) -> None:
    folder = write_decoder(tmp_path / "llama", "llama")
    found = inspect_source(folder)
    assert (found.architecture, found.max_positions, set(found.bundle_bytes)) == ("llama", 256, {"int4", "int8"})
    assert set(found.builds) == {"int4", "int8", "auto", "packed"}
    for needs in found.builds.values():
        assert found.num_parameters * 4 <= found.source_bytes < needs.disk_bytes < needs.memory_bytes
    assert found.builds["auto"].seconds > found.builds["int4"].seconds
    assert found.bundle_bytes["int4"] < found.bundle_bytes["int8"]
    assert found.left_out["config.json: initializer_range"] == "only training uses it"
    assert found.fits(1 << 30) == ["int4", "int8"]
    assert found.fits(1 << 20) == []


def test_experts_count_in_memory_and_only_some_of_them_in_the_work_for_a_token(tmp_path: Path) -> None:
    found = inspect_source(write_decoder(tmp_path / "tiny", "qwen3_moe"))
    of_an_expert, layers, idle = 3 * 32 * 64, 2, 5
    assert found.num_parameters - found.num_active_parameters == layers * idle * of_an_expert
    assert found.bundle_bytes["int8"] > found.num_parameters
    assert set(found.builds) == {"int4", "int8"}
    plain = inspect_source(write_decoder(tmp_path / "plain", "qwen3"))
    assert plain.num_parameters == plain.num_active_parameters


def test_a_gguf_file_and_an_encoder_are_judged_as_well(tmp_path: Path) -> None:
    assert inspect_source(write_gguf(tmp_path / "tiny.gguf")).architecture == "llama"
    for architecture in ("bert", "nomic_bert"):
        found = inspect_source(write_encoder(tmp_path / architecture, architecture))
        assert (found.architecture, found.max_positions, set(found.bundle_bytes)) == (architecture, 128, {"int8"})


def test_what_cannot_be_built_says_why(tmp_path: Path) -> None:
    folder = write_decoder(tmp_path / "llama", "llama")
    change_json(folder / "config.json", new_key=1)
    with pytest.raises(QuantizeError, match="'new_key': 1, which is not known for llama"):
        inspect_source(folder)

"""The memory of a conversation is told from the configuration, as the graph has it, and the README's table tells it."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.bundle.manifest import MODEL_NAME
from appliance.engine.graphs.slot_arrays import layout_of
from quantize.sources.decoder_config import read_decoder_config
from quantize.sources.inspection import REST_OF_BOARD, inspect_source
from quantize.sources.kept import conversation_bytes
from tests.quantize.boards import fit_of, rows
from tests.quantize.builder.tiny_graphs import write_graph
from tests.quantize.sources.published import DECODERS
from tests.quantize.tiny import GRANITE_HYBRID

_ROOT = Path(__file__).parents[2]
_CHANGES = {"granitemoehybrid": GRANITE_HYBRID}


@pytest.mark.slow
@pytest.mark.parametrize(
    "architecture", ["llama", "gemma3_text", "lfm2", "qwen3_5_text", "granitemoehybrid", "nemotron_h", "gemma4_text"]
)
def test_a_conversation_takes_what_the_arrays_of_the_graph_take(architecture: str, tmp_path: Path) -> None:
    folder, _ = write_graph(tmp_path / "tiny", architecture, **_CHANGES.get(architecture, {}))
    layout = layout_of((folder / MODEL_NAME).read_bytes())
    config = read_decoder_config(tmp_path / "tiny" / "checkpoint")
    assert conversation_bytes(config, 100) == 100 * layout.token_bytes() + layout.state_bytes
    found = inspect_source(tmp_path / "tiny" / "published")
    expected = found.bundle_bytes["int4"] + conversation_bytes(config, 2048) + REST_OF_BOARD
    assert found.board_memory_bytes["int4"] == expected


def test_layers_without_keys_and_values_take_none() -> None:
    hybrid, plain = fit_of(DECODERS["Qwen3.5 0.8B"]), fit_of(DECODERS["Qwen3 0.6B"])
    assert hybrid.long_bytes * 8 < plain.long_bytes


def test_the_readme_has_the_table_as_it_is_computed() -> None:
    text = (_ROOT / "README.md").read_text()
    missing = [row for row in rows() if row not in text]
    assert not missing, "python -m tests.quantize.boards prints the table"

"""The needs of a build are near to those that were measured, and a machine with less refuses before the first stage."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from appliance.errors import QuantizeError
from appliance.home import Home
from quantize.build import build_to_folder
from quantize.cli import main
from quantize.needs import Model, Needs, check_needs, needs_of, stage_needs, stages_of
from quantize.progress import StageProgress
from quantize.recipe import Recipe
from quantize.sources.census import decoder_shapes
from quantize.sources.decoder_keys import read_decoder_keys
from tests.quantize.sources.published import DECODERS
from tests.quantize.tiny import FORCED, write_encoder

_QWEN: Mapping[str, Any] = {  # Qwen2.5-Coder-0.5B-Instruct, whose GGUF file has a head of its own
    "model_type": "qwen2",
    "vocab_size": 151_936,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "tie_word_embeddings": False,
}


def qwen() -> Model:
    return Model(list(decoder_shapes(_QWEN).values()), _QWEN, is_decoder=True, is_rewritten=True)


@pytest.mark.parametrize(
    ("stage", "memory_gb"),
    [
        ("checkpoint", 1.06),
        ("export", 6.44),
        ("witness", 2.99),
        ("calibrate", 1.25),
        ("weights", 1.86),
        ("evaluate", 3.35),
    ],
)
def test_the_memory_of_a_stage_is_near_to_the_measured_one(stage: str, memory_gb: float) -> None:
    found = stage_needs(qwen(), "int4")[stage].memory_bytes / 1e9
    assert 0.5 * memory_gb <= found <= 1.2 * memory_gb


def test_the_disk_of_a_build_is_near_to_the_measured_one() -> None:
    model = qwen()
    kept = needs_of(stage_needs(model, "int4"), [name for name in stages_of(model, "int4") if name != "package"])
    assert 7.6 <= kept.disk_bytes / 1e9 <= 1.2 * 7.6  # checkpoint, export and fused graph at once


def test_per_layer_embeddings_are_narrow_in_the_file_and_take_no_part_in_fits() -> None:
    config = read_decoder_keys(DECODERS["Gemma 4 E2B"]).config
    model = Model(list(decoder_shapes(config).values()), config, is_decoder=True, is_rewritten=False)
    assert model.per_layer_table == 262_144 * 35 * 256
    table, body = model.per_layer_table, sum(n * k for n, k in model.products)
    assert model.num_parameters - table - body == pytest.approx(262_144 * 1536, rel=1e-3)  # the embedding, and norms
    assert 2.4e9 < model.stored_bytes("int4") < 3e9
    assert model.stored_bytes("int8") - model.stored_bytes("int4") == pytest.approx((table + body) / 2, rel=1e-3)


def test_a_search_and_a_wider_model_take_longer() -> None:
    model = qwen()
    seconds = {
        scheme: needs_of(stage_needs(model, scheme), stages_of(model, scheme)).seconds
        for scheme in ("int8", "int4", "auto", "packed")
    }
    assert seconds["int8"] < seconds["int4"] < seconds["auto"] < seconds["packed"]
    doubled = {**_QWEN, "hidden_size": 1792, "intermediate_size": 9728, "head_dim": 128}
    wide = Model(list(decoder_shapes(doubled).values()), doubled, is_decoder=True, is_rewritten=True)
    assert stage_needs(wide, "int4")["fit"].seconds == pytest.approx(8 * stage_needs(model, "int4")["fit"].seconds)


def test_a_text_models_calibration_holds_its_float_weights_and_the_moments_of_its_products() -> None:
    config = {"vocab_size": 250_002, "hidden_size": 1024}
    layer = [(1024, 1024)] * 4 + [(4096, 1024), (1024, 4096)]
    model = Model([(250_002, 1024), *layer * 24], config, is_decoder=False, is_rewritten=False)
    floats, moments = 4 * model.num_parameters, 4 * 24 * (5 * 1024**2 + 4096**2)
    found = stage_needs(model, "int8")["weights"]
    assert found.memory_bytes > 2 * floats + moments
    assert found.scratch_bytes == floats > 2 << 30


def test_only_the_stages_that_run_count() -> None:
    stages = stage_needs(qwen(), "int4")
    both = needs_of(stages, ["fuse", "weights", "a stage of later versions"])
    assert both.disk_bytes == stages["fuse"].disk_bytes + stages["weights"].disk_bytes
    assert both.memory_bytes == max(stages["fuse"].memory_bytes, stages["weights"].memory_bytes)
    assert needs_of(stages, []) == Needs(0, 0, 0)


def test_short_memory_and_a_short_disk_are_one_sentence_each(tmp_path: Path) -> None:
    with pytest.raises(QuantizeError, match=r"needs 3\.0 GB of memory, and 2\.0 GB are free; .* --force"):
        check_needs(Needs(3 * 10**9, 0, 0.0), tmp_path, free_bytes=2 * 10**9)
    with pytest.raises(QuantizeError, match=r"needs 1000000\.0 GB of disk, and .* GB are free in .* --force"):
        check_needs(Needs(0, 10**15, 0.0), tmp_path, free_bytes=10**9)
    check_needs(Needs(10**9, 0, 0.0), tmp_path, free_bytes=10**9)


@pytest.mark.slow
def test_a_build_tells_its_needs_and_refuses_before_the_first_stage(
    home: Home,
    progress: StageProgress,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source, out = write_encoder(tmp_path / "bert"), tmp_path / "out"
    monkeypatch.setenv("LANTERN_HOME", str(home.root))
    monkeypatch.setattr("quantize.needs.available_bytes", lambda: 10**8)
    assert main(["build", str(source), "--out", str(out)]) == QuantizeError.exit_code
    said = capsys.readouterr().err.splitlines()
    assert any(line.startswith("the build needs about 1.8 GB of memory, 0.0 GB of disk and 1 minute") for line in said)
    assert said[-1].startswith("lantern-quantize: the build needs 1.8 GB of memory, and 0.1 GB are free")
    assert "checkpoint ..." not in said
    assert not out.exists()
    recipe = Recipe.create(name="tiny-bert", source={"uri": str(source)})
    build_to_folder(recipe, home, out, progress, FORCED)
    assert main(["build", str(source), "--name", "tiny-bert", "--out", str(out), "--force"]) == 0
    assert "the build needs" not in capsys.readouterr().err  # every stage is done

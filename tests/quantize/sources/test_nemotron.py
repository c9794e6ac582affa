"""Nemotron-H's configuration: three spellings of its layers, and what is refused by name."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from appliance.errors import QuantizeError
from quantize.kinds.encoder_graph.body import check_body
from quantize.recipe import Recipe
from quantize.sources.checkpoint import read_checkpoint
from quantize.sources.decoder_config import DecoderConfig, decoder_config
from quantize.sources.decoder_keys import read_decoder_keys, why_not_searched
from quantize.sources.nemotron import plain_name, published_name
from tests.quantize.newer import write_newer
from tests.quantize.sources.mutations import read_tensors, write_tensors
from tests.quantize.sources.published_nemotron import BY_TRANSFORMERS_5, NEMOTRON_3_NANO

_PUBLISHED = NEMOTRON_3_NANO


@pytest.mark.parametrize("raw", [NEMOTRON_3_NANO, BY_TRANSFORMERS_5])
def test_a_published_configuration_is_accepted_and_its_canonical_form_too(raw: dict[str, Any]) -> None:
    config = read_decoder_keys(raw).config
    assert config == read_decoder_keys(_PUBLISHED).config
    assert read_decoder_keys(config).config == config


def test_each_layer_has_one_part() -> None:
    design = config_of(_PUBLISHED).design
    assert all((mixer is None) is not (mlp is None) for mixer, mlp in zip(design.mixers, design.mlps, strict=True))
    assert [layer for layer in range(42) if design.keeps_kv(layer)] == [12, 17, 24, 32]
    assert (design.mixers.count("mamba"), design.mlps.count("dense")) == (21, 17)
    assert set(design.rotations) == {None}
    assert design.mamba is not None
    assert (design.mamba.size, design.mamba.channels, design.mamba.limits) == (7680, 9728, (0.0, math.inf))


@pytest.mark.parametrize(
    "change",
    [
        {"layers_block_type": BY_TRANSFORMERS_5["layers_block_type"]},
        {
            "layer_types": [
                {"M": "mamba", "*": "attention", "-": "mlp"}[k] for k in _PUBLISHED["hybrid_override_pattern"]
            ]
        },
        {"time_step_limit": [0.0, math.inf]},
        {"num_hidden_layers": None},
        {"head_dim": None, "attention_head_dim": 128},
    ],
)
def test_another_spelling_is_the_same_model(change: dict[str, Any]) -> None:
    assert read_decoder_keys({**_PUBLISHED, **change}).config == read_decoder_keys(_PUBLISHED).config


def test_the_limits_of_the_steps_are_used() -> None:
    mamba = config_of({**_PUBLISHED, "time_step_limit": [0.001, 0.1]}).design.mamba
    assert mamba is not None
    assert mamba.limits == (0.001, 0.1)
    lost = {name: value for name, value in BY_TRANSFORMERS_5.items() if name != "time_step_limit"}
    with pytest.raises(QuantizeError, match="has no time_step_limit"):
        read_decoder_keys(lost)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("hybrid_override_pattern", "ME*" + "M" * 39, "says 'E' for layer 1: experts with a squared ReLU"),
        ("layers_block_type", ["mamba", "attention", "moe"], "says 'moe' for layer 2: experts with a squared ReLU"),
        ("hybrid_override_pattern", "M-*|" + "M" * 38, "says '|' for layer 3"),
        ("layers_block_type", ["mamba", "attention", "conv"], "says 'conv' for layer 2"),
        ("layer_types", ["mamba", 3], "a kind for each layer is needed"),
        ("hybrid_override_pattern", "", "a kind for each layer is needed"),
        ("layers_block_type", ["mamba", "attention"], "hybrid_override_pattern in config.json differ"),
        ("hybrid_override_pattern", "M-" * 21, "none of attention"),
        ("hybrid_override_pattern", "*-" * 21, "no layer of mamba"),
        ("num_hidden_layers", 40, "names 42 layers, but num_hidden_layers is 40"),
        ("mlp_hidden_act", "silu", "only 'relu2' is known"),
        ("mamba_hidden_act", "gelu", "only 'silu' is known"),
        ("hidden_act", "silu", "is not known for nemotron_h"),
        ("n_groups", 7, "which n_groups, 7, does not divide"),
        ("conv_kernel", 1, "at least 2 is needed"),
        ("layer_norm_epsilon", None, "a number above 0 is needed"),
        ("rms_norm_eps", 1e-6, "only 1e-05 is known"),
        ("attention_bias", True, "only False is known"),
        ("attention_head_dim", 64, "only 128 is known"),
        ("tie_word_embeddings", True, "only False is known"),
        ("sliding_window", 4096, "such models are not known yet"),
        ("rope_scaling", {"type": "linear", "factor": 2.0}, "is not known for nemotron_h"),
        ("rope_parameters", {"rope_type": "default", "rope_theta": 1e4}, "is not known for nemotron_h"),
        ("num_local_experts", 8, "such models are not known yet"),
        ("mamba_n_groups", 8, "is not known for nemotron_h"),
        ("time_step_limit", [0.5, 0.1], "the least and the largest step are needed"),
        ("time_step_limit", [0.0, None], "the least and the largest step are needed"),
        ("time_step_limit", [math.nan, math.inf], "the least and the largest step are needed"),
    ],
)
def test_anything_else_is_refused_by_its_name(name: str, value: object, said: str) -> None:
    with pytest.raises(QuantizeError) as raised:
        read_decoder_keys({**_PUBLISHED, name: value})
    assert name in raised.value.message
    assert said in raised.value.message


def test_its_positions_are_none_and_said_to_be_left_out() -> None:
    left_out = read_decoder_keys(_PUBLISHED).left_out
    assert left_out["rope_theta"] == left_out["partial_rotary_factor"] == "its attention has no positions"
    assert "time_step_limit" in left_out["time_step_min"]


def test_no_search_weighs_it_and_no_text_model_has_its_layers() -> None:
    reason = why_not_searched(read_decoder_keys(_PUBLISHED).config)
    assert reason is not None
    assert "nemotron_h" in reason
    recipe = Recipe.create(name="tiny", license="MIT", source={"uri": "tiny"})
    with pytest.raises(QuantizeError, match="nemotron_h has layers of mamba"):
        check_body(config_of(_PUBLISHED), recipe)
    with pytest.raises(QuantizeError, match="nemotron_h has layers of an MLP alone"):
        check_body(config_of({**_PUBLISHED, "hybrid_override_pattern": "-M*" + "M" * 39}), recipe)


def test_published_names_are_read_and_said(tmp_path: Path) -> None:
    folder = write_newer(tmp_path / "tiny", "nemotron_h")
    tensors = read_tensors(folder / "model.safetensors")
    assert {"backbone.embeddings.weight", "backbone.norm_f.weight", "lm_head.weight"} <= set(tensors)
    assert all(published_name(plain_name(name)) == name for name in tensors)
    assert set(read_checkpoint(folder).weights.tensors) == {plain_name(name) for name in tensors}
    drafts = ("F32", (1,), bytes(4))
    write_tensors(folder / "model.safetensors", {**tensors, "mtp.layers.0.norm.weight": drafts})
    assert read_checkpoint(folder).left_out["mtp.layers.0.norm.weight"].startswith("layers that draft")
    lost = {name: entry for name, entry in tensors.items() if name != "backbone.norm_f.weight"}
    write_tensors(folder / "model.safetensors", lost)
    with pytest.raises(QuantizeError, match=r"^the weights have no backbone\.norm_f\.weight"):
        read_checkpoint(folder)


def config_of(raw: dict[str, Any]) -> DecoderConfig:
    return decoder_config(read_decoder_keys(raw).config, {})

"""Strictness refuses no configuration that a publisher wrote, and reads transformers 5's spelling to the same."""

from __future__ import annotations

import copy

import pytest

from appliance.errors import QuantizeError
from quantize.sources.decoder_config import decoder_config
from quantize.sources.decoder_keys import read_decoder_keys
from quantize.sources.encoder_config import read_encoder_keys
from quantize.sources.fields import Fields
from quantize.sources.generation import read_generation
from quantize.sources.quantized import read_quantization
from tests.quantize.sources.published import BODIES, DECODERS, ENCODERS, GENERATIONS, as_transformers_5

_NESTED = "Gemma 3 4B"
_NESTED_MODELS = {_NESTED, "Ministral 3 3B", "Qwen3.5 0.8B", "Gemma 4 E2B"}


@pytest.mark.parametrize("name", sorted(DECODERS))
def test_a_published_decoder_is_accepted(name: str) -> None:
    raw = copy.deepcopy(DECODERS[name])
    read_quantization(raw)
    keys = read_decoder_keys(raw)
    assert read_decoder_keys(keys.config).config == keys.config
    assert decoder_config(keys.config, {}).num_layers == keys.config["num_hidden_layers"]


@pytest.mark.parametrize("name", sorted(set(DECODERS) - _NESTED_MODELS))
def test_transformers_5_says_the_same(name: str) -> None:
    raw = DECODERS[name]
    assert read_decoder_keys(as_transformers_5(copy.deepcopy(raw))).config == read_decoder_keys(raw).config


@pytest.mark.parametrize("name", sorted(BODIES))
def test_a_published_body_is_accepted_as_one_and_as_nothing_else(name: str) -> None:
    keys = read_decoder_keys(BODIES[name], is_body=True)
    assert read_decoder_keys(keys.config, is_body=True).config == keys.config
    assert read_decoder_keys(as_transformers_5(copy.deepcopy(BODIES[name])), is_body=True).config == keys.config
    with pytest.raises(QuantizeError, match="architectures"):
        read_decoder_keys(keys.config)


def test_embedding_gemmas_tokens_see_those_behind_them() -> None:
    config = decoder_config(read_decoder_keys(BODIES["EmbeddingGemma 300M"], is_body=True).config, {})
    assert config.is_bidirectional
    assert [config.window_of(layer) for layer in (4, 5)] == [512, None]
    with pytest.raises(QuantizeError, match="use_bidirectional_attention"):
        read_decoder_keys({**BODIES["Qwen3-Embedding 0.6B"], "use_bidirectional_attention": True}, is_body=True)


@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_a_published_encoder_is_accepted(name: str) -> None:
    keys = read_encoder_keys(ENCODERS[name])
    assert read_encoder_keys(keys.canonical).config == keys.config


@pytest.mark.parametrize("name", sorted(GENERATIONS))
def test_a_published_generation_config_is_accepted(name: str) -> None:
    found = read_generation(Fields(GENERATIONS[name], "generation_config.json", "llama"), 300_000)
    assert found.sampling["do_sample"] is True


def test_the_text_model_within_gemma_3_4b_gets_its_publishers_defaults() -> None:
    config = read_decoder_keys(DECODERS[_NESTED]).config
    assert (config["rope_theta"], config["rope_local_base_freq"]) == (1e6, 1e4)
    assert config["rope_scaling"] == {"rope_type": "linear", "factor": 8.0}
    assert config["layer_types"].count("full_attention") == 5
    assert config["head_dim"] == 256


def test_gemma_4_shares_keys_and_values_between_its_last_layers() -> None:
    config = decoder_config(read_decoder_keys(DECODERS["Gemma 4 E2B"]).config, {})
    design, last = config.design, range(15, 35)
    assert [layer for layer in range(35) if design.keeps_kv(layer)] == list(range(15))
    assert {design.kv_layers[layer] for layer in last if (layer + 1) % 5} == {13}
    assert {design.kv_layers[layer] for layer in last if not (layer + 1) % 5} == {14}
    assert {(design.head_dims[layer], config.window_of(layer)) for layer in last} == {(256, 512), (512, None)}
    wide, narrow = design.rotations[4], design.rotations[0]
    assert wide is not None
    assert narrow is not None
    assert [len(wide.frequencies), sum(value > 0 for value in wide.frequencies)] == [256, 64]
    assert [len(narrow.frequencies), sum(value > 0 for value in narrow.frequencies)] == [128, 128]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("attention_k_eq_v", True),
        ("enable_moe_block", True),
        ("num_experts", 128),
        ("use_bidirectional_attention", "all"),
        ("num_global_key_value_heads", 2),
        ("vocab_size_per_layer_input", 1000),
        ("hidden_size_per_layer_input", 0),
        ("num_kv_shared_layers", 32),
        ("final_logit_softcapping", -1.0),
        ("attn_logit_softcapping", 50.0),
        ("layer_types", ["full_attention"] * 34 + ["sliding_attention"]),
    ],
)
def test_what_gemma_4_has_in_other_sizes_is_refused_by_its_name(name: str, value: object) -> None:
    raw = copy.deepcopy(DECODERS["Gemma 4 E2B"])
    raw["text_config"][name] = value
    with pytest.raises(QuantizeError, match=name):
        read_decoder_keys(raw)


def test_transformers_names_the_wide_heads_of_gemma_4_layer_by_layer() -> None:
    raw = copy.deepcopy(DECODERS["Gemma 4 E2B"])
    text = raw["text_config"]
    del text["global_head_dim"], text["num_global_key_value_heads"]
    text["per_layer_config"] = {f"{layer:02}": {"head_dim": 512} for layer in range(4, 35, 5)}
    assert read_decoder_keys(raw).config == read_decoder_keys(DECODERS["Gemma 4 E2B"]).config
    text["per_layer_config"]["04"] = {"head_dim": 256}
    with pytest.raises(QuantizeError, match="per_layer_config"):
        read_decoder_keys(raw)


def test_modern_bert_of_transformers_5_says_the_same() -> None:
    raw = ENCODERS["gte-modernbert"]
    old = ("global_rope_theta", "local_rope_theta", "global_attn_every_n_layers", "torch_dtype")
    new = {name: value for name, value in raw.items() if name not in old}
    new["rope_parameters"] = {
        "full_attention": {"rope_theta": 160000.0, "rope_type": "default"},
        "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"},
    }
    new["layer_types"] = ["sliding_attention" if layer % 3 else "full_attention" for layer in range(22)]
    assert read_encoder_keys(new).config == read_encoder_keys(raw).config


def test_ministral_ends_where_its_queries_begin_to_grow() -> None:
    raw = copy.deepcopy(DECODERS["Ministral 3 3B"])
    read_quantization(raw)
    config = decoder_config(read_decoder_keys(raw).config, {})
    assert config.max_positions == 16384
    assert config.limit is not None
    assert config.limit.startswith("16,384 of 262,144 positions: beyond them its queries are scaled")
    assert {rotation.scale for rotation in config.design.rotations if rotation is not None} == {1.0}


@pytest.mark.parametrize("change", [{"mscale_all_dim": 0.5}, {"llama_4_scaling_beta": None}, {"beta_fast": 16.0}])
def test_another_yarn_is_refused_by_the_key(change: dict[str, float | None]) -> None:
    raw = copy.deepcopy(DECODERS["Ministral 3 3B"])
    read_quantization(raw)
    raw["text_config"]["rope_parameters"] |= change
    with pytest.raises(QuantizeError, match=next(iter(change))):
        read_decoder_keys(raw)


def test_longrope_ends_where_the_short_factors_do() -> None:
    assert decoder_config(read_decoder_keys(DECODERS["Phi-4-mini"]).config, {}).max_positions == 4096

"""EmbeddingGemma 2's configuration: the published one is read whole, and another one is refused by name."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest

from appliance.errors import QuantizeError
from quantize.kinds.encoder_graph.body import check_body
from quantize.needs import Model, stage_needs
from quantize.recipe import Recipe
from quantize.sources.census import decoder_shapes
from quantize.sources.decoder_config import DecoderConfig, decoder_config
from quantize.sources.decoder_keys import read_decoder_keys
from tests.quantize.sources.published import DECODERS
from tests.quantize.sources.published_embedding_gemma2 import EMBEDDING_GEMMA2

_FULL = [5, 11, 17, 23]


def test_the_published_configuration_is_accepted_and_its_canonical_form_too() -> None:
    keys = read_decoder_keys(EMBEDDING_GEMMA2, is_body=True)
    assert read_decoder_keys(keys.config, is_body=True).config == keys.config
    assert keys.left_out["vision_config"] == "images are not read"
    text = {**EMBEDDING_GEMMA2["text_config"], "architectures": ["EmbeddingGemma2TextModel"]}
    assert read_decoder_keys(text, is_body=True).config == keys.config


def test_its_layers_see_both_sides_and_differ_in_their_heads() -> None:
    config = published()
    design = config.design
    check_body(config, Recipe.create(name="x", source={"uri": "x"}))
    assert config.is_bidirectional
    assert (config.hidden_size, config.output_size) == (512, 768)
    assert [layer for layer in range(24) if config.reach_of(layer) is None] == _FULL
    assert {config.reach_of(layer) for layer in range(24) if layer not in _FULL} == {512}
    assert {(design.head_dims[layer], design.kv_heads[layer]) for layer in _FULL} == {(512, 1)}
    assert (design.head_dims[0], design.kv_heads[0]) == (256, 2)
    assert all(map(design.keeps_kv, range(24)))
    assert [len(rotation.frequencies) for rotation in design.rotations[4:6] if rotation is not None] == [128, 256]
    assert (design.attention_scale, design.norm_offset, design.embedding_scale) == (1.0, 0.0, math.sqrt(512))
    assert config.limit == "8,192 of 262,144 positions: beyond them its publisher gives it no longer texts"


def test_gemma_3_keeps_half_of_its_window_to_either_side() -> None:
    raw = {**DECODERS["Gemma 3 270M"], "architectures": ["Gemma3TextModel"], "use_bidirectional_attention": True}
    config = decoder_config(read_decoder_keys(raw, is_body=True).config, {})
    assert (config.window_of(0), config.reach_of(0)) == (512, 256)
    assert decoder_config(read_decoder_keys(DECODERS["Gemma 3 270M"]).config, {}).reach_of(0) == 511


def test_it_has_the_weights_that_its_name_says_and_a_build_needs_no_table_of_all_layers() -> None:
    keys = read_decoder_keys(EMBEDDING_GEMMA2, is_body=True).config
    shapes = decoder_shapes(keys, is_body=True)
    parameters = sum(map(math.prod, shapes.values()))
    assert round(parameters / 1e6) == 271
    model = Model(list(shapes.values()), keys, is_decoder=False, is_rewritten=True)
    assert model.num_graph_weights == parameters
    assert model.stored_bytes("int8") == pytest.approx(parameters * 33 / 32, rel=1e-3)
    assert stage_needs(model, "int8")["checkpoint"].disk_bytes == 4 * parameters  # without images and sound


def test_without_modules_json_it_is_no_model_for_text() -> None:
    with pytest.raises(QuantizeError, match=r"embedding_gemma2_text writes no text.*modules\.json"):
        read_decoder_keys(EMBEDDING_GEMMA2)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("attn_logit_softcapping", 50.0),
        ("final_logit_softcapping", 30.0),
        ("num_kv_shared_layers", 2),
        ("attention_k_eq_v", True),
        ("vocab_size_per_layer_input", 262144),
        ("use_bidirectional_attention", "vision"),
        ("hidden_activation", "silu"),
        ("hidden_size_per_layer_input", 0),
        ("embedding_dim", None),
        ("sliding_window", None),
        ("layer_types", ["full_attention"] * 24),
        ("layer_types", ["full_attention"] * 23 + ["sliding_attention"]),
        ("per_layer_config", None),
        ("per_layer_config", {}),
        ("per_layer_config", {"05": {"head_dim": 512}}),
        ("per_layer_config", {f"{layer:02}": {"head_dim": 512 + layer} for layer in _FULL}),
        ("per_layer_config", {f"{layer:02}": {"intermediate_size": 512} for layer in _FULL}),
        ("per_layer_config", {f"{layer:02}": {"num_key_value_heads": 0} for layer in _FULL}),
        ("global_head_dim", 256),
        ("num_global_key_value_heads", 2),
        ("attention_chunk_size", 64),
    ],
)
def test_another_model_is_refused_by_the_key(name: str, value: object) -> None:
    raw = copy.deepcopy(EMBEDDING_GEMMA2)
    raw["text_config"][name] = value
    with pytest.raises(QuantizeError, match=name):
        read_decoder_keys(raw, is_body=True)


def test_heads_that_do_not_share_keys_evenly_are_refused() -> None:
    with pytest.raises(QuantizeError, match="4 attention heads, which 3 key heads"):
        published(per_layer_config={f"{layer:02}": {"num_key_value_heads": 3} for layer in _FULL})


def test_a_size_that_the_wide_layers_do_not_name_is_that_of_all() -> None:
    design = published(per_layer_config={f"{layer}": {"head_dim": 512} for layer in _FULL}).design
    assert (design.head_dims[5], set(design.kv_heads)) == (512, {2})


def published(**changes: Any) -> DecoderConfig:
    raw = copy.deepcopy(EMBEDDING_GEMMA2)
    raw["text_config"] |= changes
    return decoder_config(read_decoder_keys(raw, is_body=True).config, {})

"""A checkpoint that cannot become a bundle is refused in one sentence that says what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.errors import QuantizeError
from quantize.sources.checkpoint import architecture_of, read_checkpoint
from quantize.sources.decoder_config import read_decoder_config
from quantize.sources.encoder_config import read_encoder_config
from quantize.sources.sentence import read_layout
from tests.quantize.tiny import change_json, write_decoder, write_encoder


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return write_decoder(tmp_path / "llama", "llama")


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    return write_encoder(tmp_path / "bert")


def test_a_whole_checkpoint_is_accepted(llama: Path, bert: Path) -> None:
    read_checkpoint(llama)
    read_checkpoint(bert)
    assert read_decoder_config(llama).num_kv_heads == 2
    assert read_layout(bert, read_encoder_config(bert)).max_tokens == 64


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_truncated_weights_are_refused(llama: Path, keep: int) -> None:
    path = llama / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(QuantizeError, match=r"^model\.safetensors is truncated or damaged"):
        read_checkpoint(llama)


def test_a_checkpoint_without_weights_is_refused(llama: Path) -> None:
    (llama / "model.safetensors").unlink()
    with pytest.raises(QuantizeError, match="no safetensors"):
        read_checkpoint(llama)


@pytest.mark.parametrize(
    ("field", "value", "said"), [("vocab_size", 400, "but config.json says"), ("num_hidden_layers", 3, "2 layers")]
)
def test_a_config_that_contradicts_the_weights_is_refused(llama: Path, field: str, value: int, said: str) -> None:
    change_json(llama / "config.json", **{field: value})
    with pytest.raises(QuantizeError, match=said):
        read_checkpoint(llama)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"num_key_value_heads": 3}, "3 key heads do not divide"),
        ({"hidden_size": "64"}, "hidden_size in config.json is '64'"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "'dynamic' RoPE"),
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        ({"num_local_experts": 8}, "num_local_experts"),
        ({"layer_types": ["full_attention"]}, "layer_types"),
        ({"model_type": "mamba"}, r"'mamba' \(model_type\); known are"),
    ],
)
def test_a_config_that_asks_for_the_unknown_is_refused(llama: Path, fields: dict[str, object], said: str) -> None:
    change_json(llama / "config.json", **fields)
    with pytest.raises(QuantizeError, match=said):
        read_decoder_config(llama)


def test_a_config_that_is_not_json_is_refused(llama: Path) -> None:
    (llama / "config.json").write_text("{")
    with pytest.raises(QuantizeError, match=r"config\.json is not JSON"):
        architecture_of(llama)


def test_a_pooling_that_is_not_known_is_refused(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path / "bert", pooling="max_tokens")
    with pytest.raises(QuantizeError, match="pooling_mode_max_tokens; mean, cls, lasttoken are known"):
        read_layout(folder, read_encoder_config(folder))


def test_a_module_that_is_not_known_is_refused(bert: Path) -> None:
    (bert / "modules.json").write_text('[{"type": "x.Transformer"}, {"type": "x.Pooling"}, {"type": "x.Dense"}]')
    with pytest.raises(QuantizeError, match="Dense"):
        read_layout(bert, read_encoder_config(bert))


@pytest.mark.parametrize(("field", "value"), [("hidden_act", "silu"), ("position_embedding_type", "relative_key")])
def test_an_encoder_of_another_form_is_refused(bert: Path, field: str, value: str) -> None:
    change_json(bert / "config.json", **{field: value})
    with pytest.raises(QuantizeError, match=f"{field} in config.json is '{value}'"):
        read_encoder_config(bert)

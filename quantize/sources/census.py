"""Every tensor of a model, by name and shape, as the canonical configuration asks for it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from quantize.sources.embedding_gemma2 import FAMILY as EMBEDDING_GEMMA2
from quantize.sources.embedding_gemma2 import embedding_gemma2_layer, embedding_gemma2_outer
from quantize.sources.experts import mixture_tensors, mlps
from quantize.sources.gemma4 import FAMILY as GEMMA4
from quantize.sources.gemma4 import gemma4_layer, gemma4_outer
from quantize.sources.granite import MAMBA, mamba_layer
from quantize.sources.layer_names import layer_names
from quantize.sources.lfm2 import lfm2_layer
from quantize.sources.lfm3 import lfm3_layer
from quantize.sources.nemotron import FAMILY as NEMOTRON
from quantize.sources.nemotron import nemotron_layer, plain_name
from quantize.sources.qwen35 import qwen35_layer

Shapes = dict[str, tuple[int, ...]]

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def decoder_shapes(keys: Mapping[str, Any], *, is_body: bool = False) -> Shapes:
    """Return the tensors of a causal model; without the head where it is tied to the embedding, or of a body alone."""
    hidden, vocab = keys["hidden_size"], keys["vocab_size"]
    family: str = keys["model_type"]
    shapes: Shapes = {EMBEDDING: (vocab, hidden), f"{layer_names(family).last_norm}.weight": (hidden,)}
    if not keys["tie_word_embeddings"] and not is_body:
        shapes[HEAD] = (vocab, hidden)
    if family in _OUTER:
        shapes |= _OUTER[family](keys)
    for layer in range(keys["num_hidden_layers"]):
        for name, shape in _LAYERS.get(family, _layer)(keys, layer).items():
            shapes[f"model.layers.{layer}.{name}"] = shape
    return shapes


def _layer(keys: Mapping[str, Any], layer: int) -> Shapes:
    family, hidden, wide = keys["model_type"], keys["hidden_size"], keys["intermediate_size"]
    q = keys["num_attention_heads"] * keys["head_dim"]
    kv = keys["num_key_value_heads"] * keys["head_dim"]
    norms = ["input_layernorm", "post_attention_layernorm"]
    if family == "gemma3_text":
        norms += ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
    shapes: Shapes = {f"{norm}.weight": (hidden,) for norm in norms}
    if family == "qwen3_5_text":
        mlp = {f"mlp.{name}_proj.weight": (wide, hidden) for name in ("gate", "up")}
        return shapes | mlp | {"mlp.down_proj.weight": (hidden, wide)} | qwen35_layer(keys, layer)
    if family == "granitemoehybrid" and keys["layer_types"][layer] == MAMBA:
        wide = keys["shared_intermediate_size"]
        mlp = {"shared_mlp.input_linear.weight": (2 * wide, hidden), "shared_mlp.output_linear.weight": (hidden, wide)}
        return shapes | mlp | mamba_layer(keys) | _beside_the_mlp(keys, layer)
    products = {"self_attn.o_proj": (hidden, q)}
    shapes |= _beside_the_mlp(keys, layer)
    has_experts = mlps(keys)[layer] == "experts"
    if has_experts:
        shapes |= mixture_tensors(keys)
    elif family == "granitemoehybrid":
        wide = keys["shared_intermediate_size"]
        products |= {"shared_mlp.input_linear": (2 * wide, hidden), "shared_mlp.output_linear": (hidden, wide)}
    else:
        products["mlp.down_proj"] = (hidden, wide)
    if family == "phi3":
        products |= {"self_attn.qkv_proj": (q + 2 * kv, hidden), "mlp.gate_up_proj": (2 * wide, hidden)}
    else:
        products |= {
            "self_attn.q_proj": (q, hidden),
            "self_attn.k_proj": (kv, hidden),
            "self_attn.v_proj": (kv, hidden),
        }
        if family != "granitemoehybrid" and not has_experts:
            products |= {"mlp.gate_proj": (wide, hidden), "mlp.up_proj": (wide, hidden)}
    if family in ("qwen3", "qwen3_moe", "gemma3_text"):
        shapes |= {f"self_attn.{part}_norm.weight": (keys["head_dim"],) for part in "qk"}
    for name, shape in products.items():
        shapes[f"{name}.weight"] = shape
        if _has_bias(keys, name):
            shapes[f"{name}.bias"] = shape[:1]
    return shapes


def _beside_the_mlp(keys: Mapping[str, Any], layer: int) -> Shapes:
    return mixture_tensors(keys) if mlps(keys)[layer] == "both" else {}


def _has_bias(keys: Mapping[str, Any], name: str) -> bool:
    if "mlp." in name:
        return bool(keys.get("mlp_bias"))
    if keys["model_type"] == "qwen2":
        return name != "self_attn.o_proj"
    return bool(keys.get("attention_bias"))


# Of families that share no more than a prefix with the others.
_LAYERS: Mapping[str, Callable[[Mapping[str, Any], int], Shapes]] = {
    "lfm2": lfm2_layer,
    "lfm2_moe": lfm2_layer,
    "lfm3": lfm3_layer,
    GEMMA4: gemma4_layer,
    EMBEDDING_GEMMA2: embedding_gemma2_layer,
    NEMOTRON: nemotron_layer,
}
_OUTER: Mapping[str, Callable[[Mapping[str, Any]], Shapes]] = {
    GEMMA4: gemma4_outer,
    EMBEDDING_GEMMA2: embedding_gemma2_outer,
}

INV_FREQ = re.compile(r"model\.(layers\.\d+\.self_attn\.)?rotary_emb(_local)?\.inv_freq")

# Of a model for more than text, whose text part stands below another name.
_TEXT_PREFIXES = (
    ("language_model.model.", "model."),
    ("model.language_model.", "model."),
    ("language_model.lm_head.", "lm_head."),
    ("language_model.", "model."),
)
_IMAGES, _SOUND, _DRAFTS = "images are not read", "sound is not read", "layers that draft further tokens are left out"
_OTHER_PARTS = {
    **dict.fromkeys(("vision_tower.", "multi_modal_projector.", "visual.", "embed_vision."), _IMAGES),
    **dict.fromkeys(("audio_tower.", "embed_audio."), _SOUND),
    "mtp.": _DRAFTS,
}


def other_part(name: str) -> str | None:
    """Return the reason why a tensor of a model for more than text is left out; None for one of the text model."""
    plain = name.removeprefix("model.")
    return next((why for prefix, why in _OTHER_PARTS.items() if plain.startswith(prefix)), None)


def canonical_name(name: str, family: str) -> str:
    """Return the canonical name of a tensor, which may be that within a model for more than text."""
    if family == NEMOTRON:
        return plain_name(name)
    for prefix, plain in _TEXT_PREFIXES:
        if name.startswith(prefix):
            return plain + name.removeprefix(prefix)
    return name

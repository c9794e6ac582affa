"""EmbeddingGemma 2's text model: Gemma 4's layers with attention to both sides, whose hidden states are projected.

Each layer gets a projection of the embedding, and nothing of a second table. The layers with full attention have wider
heads and another number of those of keys and values; each layer reads its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from appliance.errors import QuantizeError
from quantize.sources.fields import Fields
from quantize.sources.gemma4 import head_dim
from quantize.sources.rope import FULL
from quantize.sources.wide_layers import gemma_layer_types, wide_size

FAMILY = "embedding_gemma2_text"
PER_LAYER_PROJECTION, PROJECTION = "model.ple.per_layer_model_projection.weight", "model.embedding_projection.weight"
PER_LAYER_NORM = "model.ple.per_layer_projection_norm"
MOST_TOKENS = 8192  # of the publisher's model card; max_position_embeddings is that of Gemma 4
_NORMS = (
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
    "ple_block.post_per_layer_input_norm",
)
_SIZES = {"head_dim": "global_head_dim", "num_key_value_heads": "num_global_key_value_heads"}

Shapes = dict[str, tuple[int, ...]]


def embedding_gemma2_keys(fields: Fields) -> dict[str, Any]:
    """Return the canonical keys that only this family has.

    Raises:
        QuantizeError: missing, contradictory, or not known.
    """
    types = gemma_layer_types(fields)
    sizes = {wide: _wide(fields, types, name) for name, wide in _SIZES.items()}
    heads, kv_heads = fields.count("num_attention_heads"), sizes["num_global_key_value_heads"]
    if heads % kv_heads:
        raise QuantizeError(f"{fields.where} has {heads} attention heads, which {kv_heads} key heads do not divide")
    return {
        "layer_types": types,
        "sliding_window": fields.count("sliding_window"),
        **sizes,
        "hidden_size_per_layer_input": fields.count("hidden_size_per_layer_input"),
        "embedding_dim": fields.count("embedding_dim"),
    }


def embedding_gemma2_layer(keys: Mapping[str, Any], layer: int) -> Shapes:
    """Return the tensors of a layer below its prefix, by shape."""
    hidden, wide, head = keys["hidden_size"], keys["intermediate_size"], head_dim(keys, layer)
    width, others = keys["hidden_size_per_layer_input"], kv_heads(keys, layer) * head
    queries = keys["num_attention_heads"] * head
    shapes: Shapes = {f"{name}.weight": (hidden,) for name in _NORMS}
    shapes |= {f"mlp.{name}_proj.weight": (wide, hidden) for name in ("gate", "up")}
    shapes |= {"mlp.down_proj.weight": (hidden, wide), "layer_scalar": (1,)}
    shapes["ple_block.per_layer_input_gate.weight"] = (width, hidden)
    shapes["ple_block.per_layer_projection.weight"] = (hidden, width)
    products = {"q_proj": (queries, hidden), "k_proj": (others, hidden), "v_proj": (others, hidden)}
    for name, shape in {**products, "o_proj": (hidden, queries)}.items():
        shapes[f"self_attn.{name}.weight"] = shape
        if keys["attention_bias"]:
            shapes[f"self_attn.{name}.bias"] = shape[:1]
    return shapes | {f"self_attn.{name}_norm.weight": (head,) for name in "qk"}


def embedding_gemma2_outer(keys: Mapping[str, Any]) -> Shapes:
    """Return the tensors that belong to no layer, but for the embedding and the last norm."""
    hidden, width = keys["hidden_size"], keys["hidden_size_per_layer_input"]
    return {
        PER_LAYER_PROJECTION: (keys["num_hidden_layers"] * width, hidden),
        f"{PER_LAYER_NORM}.weight": (width,),
        PROJECTION: (keys["embedding_dim"], hidden),
    }


def kv_heads(keys: Mapping[str, Any], layer: int) -> int:
    """Return the number of a layer's heads of keys and values."""
    name = "num_global_key_value_heads" if keys["layer_types"][layer] == FULL else "num_key_value_heads"
    return int(keys[name])


def _wide(fields: Fields, types: list[str], name: str) -> int:
    """Return a size of the layers with full attention; one that per_layer_config leaves out is that of all layers."""
    found = wide_size(fields, types, name, tuple(_SIZES), _SIZES[name])
    if found is None and not fields.has("per_layer_config"):
        raise fields.missing("per_layer_config", f"which says {name} of the layers with {FULL}")
    return fields.count(name) if found is None else found

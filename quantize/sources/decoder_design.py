"""The numbers with which a causal model computes, out of its canonical configuration."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from quantize.sources.embedding_gemma2 import FAMILY as EMBEDDING_GEMMA2
from quantize.sources.embedding_gemma2 import kv_heads
from quantize.sources.experts import Experts, Mlp, experts_of, mlps
from quantize.sources.gemma4 import FAMILY as GEMMA4
from quantize.sources.gemma4 import head_dim, kv_layer
from quantize.sources.layer_names import LayerNames, layer_names
from quantize.sources.rotations import Rotation, rotations

Activation = Literal["silu", "gelu_tanh", "relu2"]
OutputGate = Literal["channels", "heads"]
Mixer = Literal["attention", "conv", "delta", "mamba"]

# By the layer's type; all others are kinds of attention.
_MIXERS: Mapping[str, Mixer | None] = {"conv": "conv", "linear_attention": "delta", "mamba": "mamba", "mlp": None}
_OUTPUT_GATES: Mapping[str, OutputGate] = {"qwen3_5_text": "channels", "lfm3": "heads"}
_KERNELS = ("conv_L_cache", "linear_conv_kernel_dim", "mamba_d_conv", "conv_kernel")
_EPSILONS = ("norm_eps", "layer_norm_epsilon", "rms_norm_eps")
_GEMMA4_LAYERS = frozenset({GEMMA4, EMBEDDING_GEMMA2})
_GEMMA = _GEMMA4_LAYERS | {"gemma3_text"}
_OFFSET_NORMS = frozenset({"gemma3_text", "qwen3_5_text"})


@dataclass(frozen=True, slots=True)
class DeltaShape:
    """The heads of a gated delta net; each key is that of one or more heads of values."""

    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int

    @property
    def key_size(self) -> int:
        """The channels of all keys."""
        return self.key_heads * self.key_dim

    @property
    def value_size(self) -> int:
        """The channels of all values."""
        return self.value_heads * self.value_dim


@dataclass(frozen=True, slots=True)
class MambaShape:
    """The heads of Mamba-2, and the rows of each head's state; the heads of a group share B and C.

    The norm behind them is one for each group. `limits`: the least and the largest step.
    """

    heads: int
    head_dim: int
    state: int
    groups: int = 1
    limits: tuple[float, float] = (0.0, math.inf)

    @property
    def size(self) -> int:
        """The channels of all heads."""
        return self.heads * self.head_dim

    @property
    def channels(self) -> int:
        """The channels of the convolution: those of all heads, B and C."""
        return self.size + 2 * self.shared

    @property
    def shared(self) -> int:
        """The channels of B of all groups, which are those of C."""
        return self.groups * self.state


@dataclass(frozen=True, slots=True)
class DecoderDesign:
    """Factors, norms, positions and kinds of layers of a causal model.

    Attributes:
        rotations: one for each layer; None in a layer without positions.
        attention_scale: the factor on the products of queries and keys.
        names: the modules of its layers.
        mixers: the part of each layer that mixes tokens; None in a layer that is an MLP alone.
        mlps: the part of each layer that does not; None in a layer that is a mixer alone.
        experts: those of its mixtures, if it has them.
        conv_kernel: the tokens that a convolution sees, itself included; 0 without one.
        delta: the heads of its gated delta nets, if it has them.
        mamba: the heads of its layers of Mamba-2, if it has them.
        output_gate: attention's output is multiplied by the sigmoid of one gate for each channel, which come with the
            queries, or for each head, from a product of their own; None without gates.
        norm_offset: what is added to the stored weights of every norm but a gated one.
        embedding_scale, residual_scale: factors on the embedding, and on each block's output before the sum.
        logits_divisor: the logits are divided by this number.
        logits_cap: the logits are bent by tanh to stay below this number; None without such a cap.
        head_dims: the width of each layer's heads.
        kv_heads: the number of each layer's heads of keys and values.
        kv_layers: the layer whose keys and values each layer reads; most read their own.
        has_value_norm: the heads of values are normed, without weights.
        per_layer_width: the width of what each layer gets of the tokens beside the residual sum; 0 without it.
        has_per_layer_table: a table of all tokens gives a part of that; else it is a projection of the embedding alone.
        projected_width: the width of the projection behind the last norm; None without one.
    """

    rotations: tuple[Rotation | None, ...]
    attention_scale: float
    norm_epsilon: float
    names: LayerNames
    mixers: tuple[Mixer | None, ...]
    head_dims: tuple[int, ...]
    kv_heads: tuple[int, ...]
    kv_layers: tuple[int, ...]
    mlps: tuple[Mlp | None, ...]
    experts: Experts | None = None
    conv_kernel: int = 0
    delta: DeltaShape | None = None
    mamba: MambaShape | None = None
    output_gate: OutputGate | None = None
    activation: Activation = "silu"
    norm_offset: float = 0.0
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    logits_divisor: float = 1.0
    logits_cap: float | None = None
    has_value_norm: bool = False
    per_layer_width: int = 0
    has_per_layer_table: bool = False
    projected_width: int | None = None

    @property
    def attention_layers(self) -> tuple[int, ...]:
        """The layers of attention."""
        return tuple(layer for layer, mixer in enumerate(self.mixers) if mixer == "attention")

    def keeps_kv(self, layer: int) -> bool:
        """Return True for a layer with keys and values of its own."""
        return self.mixers[layer] == "attention" and self.kv_layers[layer] == layer


def decoder_design(keys: Mapping[str, Any]) -> DecoderDesign:
    """Return the design that a canonical configuration describes."""
    is_gemma, is_gemma4 = keys["model_type"] in _GEMMA, keys["model_type"] in _GEMMA4_LAYERS
    has_kv_heads, lends_kv = keys["model_type"] == EMBEDDING_GEMMA2, keys["model_type"] == GEMMA4
    layers = range(keys["num_hidden_layers"])
    scale = float(keys.get("query_pre_attn_scalar", keys["head_dim"])) ** -0.5
    types = keys.get("layer_types") or [""] * keys["num_hidden_layers"]
    return DecoderDesign(
        rotations=rotations(keys),
        attention_scale=1.0 if is_gemma4 else keys.get("attention_multiplier", scale),
        norm_epsilon=next(keys[name] for name in _EPSILONS if name in keys),
        names=layer_names(keys["model_type"]),
        mixers=tuple(_MIXERS.get(kind, "attention") for kind in types),
        head_dims=tuple(head_dim(keys, layer) if is_gemma4 else keys["head_dim"] for layer in layers),
        kv_heads=tuple(kv_heads(keys, layer) if has_kv_heads else keys["num_key_value_heads"] for layer in layers),
        kv_layers=tuple(kv_layer(keys, layer) if lends_kv else layer for layer in layers),
        mlps=mlps(keys),
        experts=experts_of(keys),
        conv_kernel=next((keys[name] for name in _KERNELS if name in keys), 0),
        delta=_delta_shape(keys),
        mamba=_mamba_shape(keys),
        output_gate=_OUTPUT_GATES.get(keys["model_type"]),
        activation="gelu_tanh" if is_gemma else keys.get("mlp_hidden_act", "silu"),
        norm_offset=1.0 if keys["model_type"] in _OFFSET_NORMS else 0.0,
        embedding_scale=keys["hidden_size"] ** 0.5 if is_gemma else keys.get("embedding_multiplier", 1.0),
        residual_scale=keys.get("residual_multiplier", 1.0),
        logits_divisor=keys.get("logits_scaling", 1.0),
        logits_cap=keys.get("final_logit_softcapping"),
        has_value_norm=is_gemma4,
        per_layer_width=keys.get("hidden_size_per_layer_input", 0),
        has_per_layer_table=keys["model_type"] == GEMMA4,
        projected_width=keys.get("embedding_dim"),
    )


def _delta_shape(keys: Mapping[str, Any]) -> DeltaShape | None:
    if "linear_num_key_heads" not in keys:
        return None
    names = ("num_key_heads", "num_value_heads", "key_head_dim", "value_head_dim")
    return DeltaShape(*(keys[f"linear_{name}"] for name in names))


def _mamba_shape(keys: Mapping[str, Any]) -> MambaShape | None:
    if "ssm_state_size" in keys:
        low, high = keys["time_step_limit"]
        heads, head_dim, state, groups = (
            keys[name] for name in ("mamba_num_heads", "mamba_head_dim", "ssm_state_size", "n_groups")
        )
        return MambaShape(heads, head_dim, state, groups, (low, high))
    if "mamba_d_state" not in keys:
        return None
    return MambaShape(keys["mamba_n_heads"], keys["mamba_d_head"], keys["mamba_d_state"])

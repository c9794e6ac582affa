"""The names of a causal model's modules by its family, as its checkpoint has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class MlpNames:
    """The products of an MLP: gate and up are one tensor, named `joined`, or two; without a gate both are None."""

    joined: str | None = "mlp.gate_up_proj"
    gate: str | None = "mlp.gate_proj"
    up: str = "mlp.up_proj"
    down: str = "mlp.down_proj"


@dataclass(frozen=True, slots=True)
class ExpertNames:
    """The tensors of a mixture of experts; {} stands for an expert's number.

    Attributes:
        bias: what is added to the scores for the choice alone; None where there is none.
        joined: gate and up of all experts, where they are one tensor, and `down` is another; else None.
    """

    router: str = "mlp.gate"
    bias: str | None = None
    joined: str | None = None
    gate: str = "mlp.experts.{}.gate_proj"
    up: str = "mlp.experts.{}.up_proj"
    down: str = "mlp.experts.{}.down_proj"


@dataclass(frozen=True, slots=True)
class LayerNames:
    """The modules of a layer, below `model.layers.N`.

    Attributes:
        first_norm, second_norm: before the mixer (attention, or what stands in its place), and before the MLP; a layer
            that has only one of them has the first norm alone.
        mixer_norm, mlp_norm: behind them, before the residual sum; None where there is none.
        attention, mamba: the mixers of these kinds.
        output: the product behind attention, below it.
        query_norm, key_norm: the norms of each head, below attention.
        last_norm: the whole name of the norm before the head.
        per_layer: what precedes the names of the modules around a layer's own input.
    """

    first_norm: str = "input_layernorm"
    second_norm: str = "post_attention_layernorm"
    mixer_norm: str | None = None
    mlp_norm: str | None = None
    attention: str = "self_attn"
    mamba: str = "mamba"
    output: str = "o_proj"
    query_norm: str = "q_norm"
    key_norm: str = "k_norm"
    mlp: MlpNames = MlpNames()
    experts: ExpertNames = ExpertNames()
    last_norm: str = "model.norm"
    per_layer: str = ""


_USUAL = LayerNames()
_LIQUID_MLP = MlpNames("feed_forward.w1_w3", "feed_forward.w1", "feed_forward.w3", "feed_forward.w2")
_LFM2 = LayerNames(
    first_norm="operator_norm",
    second_norm="ffn_norm",
    output="out_proj",
    query_norm="q_layernorm",
    key_norm="k_layernorm",
    mlp=_LIQUID_MLP,
    last_norm="model.embedding_norm",
)
_GEMMA = LayerNames(
    second_norm="pre_feedforward_layernorm",
    mixer_norm="post_attention_layernorm",
    mlp_norm="post_feedforward_layernorm",
)
_FAMILIES: Mapping[str, LayerNames] = {
    "gemma3_text": _GEMMA,
    "gemma4_text": _GEMMA,
    "embedding_gemma2_text": replace(_GEMMA, per_layer="ple_block."),
    "granitemoehybrid": LayerNames(
        mlp=MlpNames(joined="shared_mlp.input_linear", down="shared_mlp.output_linear"),
        experts=ExpertNames(
            router="block_sparse_moe.router.layer",
            joined="block_sparse_moe.input_linear",
            down="block_sparse_moe.output_linear",
        ),
    ),
    "lfm2": _LFM2,
    "lfm2_moe": replace(
        _LFM2,
        experts=ExpertNames(
            router="feed_forward.gate",
            bias="feed_forward.expert_bias",
            gate="feed_forward.experts.{}.w1",
            up="feed_forward.experts.{}.w3",
            down="feed_forward.experts.{}.w2",
        ),
    ),
    "lfm3": LayerNames(
        first_norm="operator_norm",
        second_norm="ffn_norm",
        mixer_norm="post_operator_norm",
        mlp_norm="post_ffn_norm",
        mlp=_LIQUID_MLP,
        last_norm="model.embedding_norm",
    ),
    "nemotron_h": LayerNames(
        first_norm="norm",
        attention="mixer",
        mamba="mixer",
        mlp=MlpNames(joined=None, gate=None, up="mixer.up_proj", down="mixer.down_proj"),
        last_norm="model.norm_f",
    ),
}


def layer_names(family: str) -> LayerNames:
    """Return the names that a family's checkpoints have."""
    return _FAMILIES.get(family, _USUAL)

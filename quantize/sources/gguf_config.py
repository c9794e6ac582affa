"""A GGUF file's metadata as a configuration in transformers' words; every key is read, left out, or refused by name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from appliance.errors import QuantizeError
from quantize.sources.fields import Fields, shown
from quantize.sources.gguf_header import Gguf
from quantize.sources.rope import FULL, SLIDING

FAMILIES = {
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma3": "gemma3_text",
    "phi3": "phi3",
    "smollm3": "smollm3",
    "granite": "granite",
}
ROPE_FACTORS = ("rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight")
EMBEDDING, HEAD = "token_embd.weight", "output.weight"

_DESCRIBES = ("general.", "quantize.imatrix.", "imatrix.")
_USED = frozenset({"general.architecture", "general.alignment", "general.type", "general.quantization_version"})
# Keys that would change the computation; absent, zero or false is the only form that is known.
_MUST_BE_EMPTY = (
    "expert_count",
    "expert_used_count",
    "attention.clamp_kqv",
    "attention.max_alibi_bias",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "rope.scaling.yarn_log_multiplier",
    "rope.dimension_sections",
    "pooling_type",
)
_FIXED: Mapping[str, object] = {
    "use_parallel_residual": True,
    "attention.causal": True,
    "tensor_data_layout": "Meta AI original pth",  # the order of rows in q and k that every such file has
    "rope.scaling.yarn_ext_factor": -1.0,
    "rope.scaling.yarn_attn_factor": 1.0,
    "rope.scaling.yarn_beta_fast": 32.0,
    "rope.scaling.yarn_beta_slow": 1.0,
}
_IGNORED = {"rope.scaling.finetuned": "tells how the model was trained"}
_LLAMA3_THETA, _LLAMA3_LENGTH = 500_000.0, 8192
_GEMMA3_LOCAL_THETA, _GEMMA3_PATTERN, _GEMMA3_27B_LAYERS = 10_000.0, 6, 62
_SMOLLM3_INTERVAL = 4
_GRANITE = {
    "embedding_scale": "embedding_multiplier",
    "residual_scale": "residual_multiplier",
    "attention.scale": "attention_multiplier",
    "logit_scale": "logits_scaling",
}

Config = dict[str, Any]


class _Keys(Fields):
    """The keys of one model, named without the architecture in front."""

    def __init__(self, metadata: Mapping[str, Any], where: str, family: str, prefix: str) -> None:
        super().__init__(metadata, where, family)
        self.prefix = f"{prefix}."

    def value(self, name: str) -> Any:
        return super().value(name if name.startswith(("general.", "tokenizer.")) else self.prefix + name)

    def has(self, name: str) -> bool:
        return super().has(name if name.startswith(("general.", "tokenizer.")) else self.prefix + name)


def gguf_config(gguf: Gguf) -> tuple[Config, dict[str, str], list[str]]:
    """Return a configuration as transformers would write it.

    With it come the keys that were left out, with the reason, and the absent keys that got a default.

    Raises:
        QuantizeError: a key is missing, not known, or asks for what no graph here computes.
    """
    name, arch = gguf.path.name, gguf.architecture
    if arch not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise QuantizeError(f"{name} has the architecture {shown(arch)} (general.architecture); known are {known}")
    keys = _Keys(gguf.metadata, name, arch, arch)
    for used in _USED:
        keys.value(used)
    keys.fixed("general.type", "model")
    keys.fixed("general.quantization_version", 2)
    for key in _MUST_BE_EMPTY:
        keys.absent(key)
    for key, value in _FIXED.items():
        keys.fixed(key, value)
    config = _shape(keys, gguf)
    config |= _rope(keys, gguf, config)
    config |= _family(keys, arch, config)
    ignored = {f"{arch}.{key}": why for key, why in _IGNORED.items()}
    ignored |= {key: "describes the file" for key in gguf.metadata if key.startswith(_DESCRIBES)}
    ignored |= {key: "the tokenizer's" for key in gguf.metadata if key.startswith("tokenizer.")}
    left_out = keys.left_out(ignored)
    return config, {key: why for key, why in left_out.items() if why != "the tokenizer's"}, keys.defaulted


def _shape(keys: _Keys, gguf: Gguf) -> Config:
    hidden, heads = keys.count("embedding_length"), keys.count("attention.head_count")
    rows = gguf.tensors[EMBEDDING].shape[0] if EMBEDDING in gguf.tensors else None
    vocab = keys.count("vocab_size", rows)
    head_dim = keys.count("attention.key_length", max(1, hidden // heads))
    if keys.count("attention.value_length", head_dim) != head_dim:
        raise QuantizeError(f"attention.value_length in {keys.where} differs from attention.key_length {head_dim}")
    bos, *ends = (keys.token(f"tokenizer.ggml.{name}_token_id", vocab) for name in ("bos", "eos", "eot", "eom"))
    qkv_biased = "blk.0.attn_q.bias" in gguf.tensors and keys.family != "qwen2"
    config: Config = {
        "model_type": FAMILIES[keys.family],
        "vocab_size": vocab,
        "hidden_size": hidden,
        "intermediate_size": keys.count("feed_forward_length"),
        "num_hidden_layers": keys.count("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": keys.count("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "max_position_embeddings": keys.count("context_length"),
        "rms_norm_eps": keys.number("attention.layer_norm_rms_epsilon"),
        "bos_token_id": bos,
        "eos_token_id": sorted({token for token in ends if token is not None}) or None,
        "tie_word_embeddings": HEAD not in gguf.tensors,
        "attention_bias": qkv_biased or keys.family == "qwen2",
    }
    if keys.family == "gemma3":
        config["hidden_activation"] = "gelu_pytorch_tanh"
    else:
        config["hidden_act"] = "silu"
    if "blk.0.ffn_up.bias" in gguf.tensors:
        config["mlp_bias"] = True
    return config


def _rope(keys: _Keys, gguf: Gguf, config: Config) -> Config:
    found: Config = {"rope_theta": keys.number("rope.freq_base", least=1.0), "rope_scaling": None}
    head_dim, where = config["head_dim"], keys.where
    rotary = keys.count("rope.dimension_count", head_dim)
    if keys.family == "phi3":
        found["partial_rotary_factor"] = rotary / head_dim
    elif rotary != head_dim:
        raise QuantizeError(f"rope.dimension_count in {where} is {rotary}, but heads have {head_dim} channels")
    kind, factor = _scaling(keys)
    length = keys.count("rope.scaling.original_context_length", config["max_position_embeddings"])
    lists = {name: gguf.tensors[name].load().tolist() for name in ROPE_FACTORS if name in gguf.tensors}
    attention = keys.number("rope.scaling.attn_factor") if keys.has("rope.scaling.attn_factor") else None
    if lists:
        return found | _with_factors(keys, lists, kind, length, attention)
    if kind == "longrope":
        raise QuantizeError(f"{where} asks for longrope, but has no {ROPE_FACTORS[1]}")
    if attention not in (None, 1.0):
        raise QuantizeError(f"rope.scaling.attn_factor in {where} is {attention}; only 1.0 is known without factors")
    is_llama3 = keys.family == "llama" and found["rope_theta"] == _LLAMA3_THETA
    if is_llama3 and config["max_position_embeddings"] > _LLAMA3_LENGTH:
        raise QuantizeError(
            f"{where} has no {ROPE_FACTORS[0]}, which Llama 3.1 and later have; convert it again with a newer tool"
        )
    if kind != "none":
        found["rope_scaling"] = {"rope_type": kind, "factor": factor}
        if kind == "yarn":
            found["rope_scaling"]["original_max_position_embeddings"] = length
    return found


def _scaling(keys: _Keys) -> tuple[str, float | None]:
    """Return the kind of scaling and its factor; a factor of 1 is none."""
    kind = keys.choice("rope.scaling.type", ("none", "linear", "yarn", "longrope"), "none")
    factor = keys.number("rope.scaling.factor") if keys.has("rope.scaling.factor") else None
    old = keys.number("rope.scale_linear") if keys.has("rope.scale_linear") else 1.0
    if old != 1.0:
        kind, factor = "linear", old
    if kind in ("linear", "yarn") and factor is None:
        raise QuantizeError(f"{keys.where} asks for {kind} RoPE, but has no rope.scaling.factor")
    if kind == "none" and factor not in (None, 1.0):
        raise QuantizeError(f"rope.scaling.factor in {keys.where} is {factor}, but there is no rope.scaling.type")
    if factor == 1.0 and kind != "longrope":
        return "none", None
    return kind, factor


def _with_factors(
    keys: _Keys, lists: Mapping[str, list[float]], kind: str, length: int, attention: float | None
) -> Config:
    """Return the exact factors of each frequency, which transformers calls longrope."""
    plain = lists.get(ROPE_FACTORS[0])
    if plain is not None:
        if len(lists) > 1 or kind != "none" or attention not in (None, 1.0):
            raise QuantizeError(
                f"{keys.where} has {ROPE_FACTORS[0]} and another scaling of its positions, which is not known"
            )
        short = long = plain
        length = keys.count("context_length")
    else:
        missing = next((name for name in ROPE_FACTORS[1:] if name not in lists), None)
        if missing is not None or kind not in ("none", "longrope"):
            raise QuantizeError(
                f"{keys.where} has factors of its positions but {missing or kind}, which do not go together"
            )
        if not keys.has("rope.scaling.original_context_length"):
            raise QuantizeError(f"{keys.where} has no rope.scaling.original_context_length, which its factors need")
        short, long = (lists[name] for name in ROPE_FACTORS[1:])
    scaling = {"rope_type": "longrope", "short_factor": short, "long_factor": long}
    return {
        "rope_scaling": {**scaling, "attention_factor": 1.0 if attention is None else attention},
        "original_max_position_embeddings": length,
    }


def _family(keys: _Keys, arch: str, config: Config) -> Config:
    layers = config["num_hidden_layers"]
    if arch == "gemma3":
        local = keys.number("rope.freq_base_swa") if keys.has("rope.freq_base_swa") else _GEMMA3_LOCAL_THETA
        scalar = (
            config["head_dim"]
            if layers != _GEMMA3_27B_LAYERS
            else config["hidden_size"] / config["num_attention_heads"]
        )
        if keys.has("attention.scale") and not math.isclose(keys.number("attention.scale"), scalar**-0.5, rel_tol=1e-6):
            raise QuantizeError(
                f"attention.scale in {keys.where} is {keys.number('attention.scale')}; {scalar**-0.5} is known"
            )
        keys.value("attention.scale")
        return {
            "sliding_window": keys.count("attention.sliding_window"),
            "layer_types": _pattern(keys, layers),
            "rope_local_base_freq": local,
            "query_pre_attn_scalar": scalar,
        }
    if arch == "granite":
        return {name: keys.number(key) for key, name in _GRANITE.items()}
    keys.absent("attention.scale")
    if arch == "phi3":
        window = keys.value("attention.sliding_window")
        return {"sliding_window": keys.count("attention.sliding_window") if window else None}
    keys.absent("attention.sliding_window")
    if arch == "smollm3":
        return {"no_rope_layers": [int((layer + 1) % _SMOLLM3_INTERVAL != 0) for layer in range(layers)]}
    return {}


def _pattern(keys: _Keys, layers: int) -> list[str]:
    """Return the kind of each layer; the pattern is a number, or a flag for each layer, or the family's own."""
    value = keys.value("attention.sliding_window_pattern")
    if isinstance(value, list):
        if len(value) != layers or not all(isinstance(flag, bool) for flag in value):
            raise QuantizeError(
                f"attention.sliding_window_pattern in {keys.where} is {shown(value)}; {layers} flags are needed"
            )
        return [SLIDING if flag else FULL for flag in value]
    step = keys.count("attention.sliding_window_pattern", _GEMMA3_PATTERN)
    return [FULL if (layer + 1) % step == 0 else SLIDING for layer in range(layers)]

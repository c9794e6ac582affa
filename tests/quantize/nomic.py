"""nomic-bert in plain torch, written from the published description: transformers 4.57 knows it only as remote code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from quantize.quiet import quiet

CONFIG: dict[str, Any] = {
    "model_type": "nomic_bert",
    "architectures": ["NomicBertModel"],
    "activation_function": "swiglu",
    "n_embd": 64,
    "n_head": 2,
    "n_inner": 128,
    "n_layer": 2,
    "n_positions": 128,
    "max_trained_positions": 64,
    "layer_norm_epsilon": 1e-12,
    "rotary_emb_base": 1000,
    "rotary_emb_fraction": 1.0,
    "rotary_emb_interleaved": False,
    "rotary_scaling_factor": None,
    "prenorm": False,
    "use_rms_norm": False,
    "type_vocab_size": 2,
    "vocab_size": 320,
}


def write_nomic(folder: Path) -> None:
    """Write config.json and random weights."""
    with quiet():
        import torch
        from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(0)
    hidden, wide = CONFIG["n_embd"], CONFIG["n_inner"]

    def normal(*shape: int) -> Any:
        return torch.randn(*shape, generator=generator) * 0.08

    tensors: dict[str, Any] = {
        "embeddings.word_embeddings.weight": normal(CONFIG["vocab_size"], hidden),
        "embeddings.token_type_embeddings.weight": normal(2, hidden),
    }
    norms = ["emb_ln"]
    for layer in range(CONFIG["n_layer"]):
        name = f"encoder.layers.{layer}"
        tensors[f"{name}.attn.Wqkv.weight"] = normal(3 * hidden, hidden)
        tensors[f"{name}.attn.out_proj.weight"] = normal(hidden, hidden)
        tensors[f"{name}.mlp.fc11.weight"] = normal(wide, hidden)
        tensors[f"{name}.mlp.fc12.weight"] = normal(wide, hidden)
        tensors[f"{name}.mlp.fc2.weight"] = normal(hidden, wide)
        norms += [f"{name}.norm1", f"{name}.norm2"]
    for name in norms:
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = 1 + normal(hidden), normal(hidden)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG))


def nomic_hidden(folder: Path, ids: list[int]) -> Any:
    """Compute the rows (S, hidden) of one text after the last layer."""
    import torch
    from safetensors.torch import load_file
    from torch.nn import functional

    w = load_file(folder / "model.safetensors")
    hidden, heads = CONFIG["n_embd"], CONFIG["n_head"]
    half = hidden // heads // 2

    def norm(x: Any, name: str) -> Any:
        return functional.layer_norm(x, (hidden,), w[f"{name}.weight"], w[f"{name}.bias"], CONFIG["layer_norm_epsilon"])

    angles = torch.arange(len(ids))[:, None] * CONFIG["rotary_emb_base"] ** -(torch.arange(half) / half)
    cos, sin = angles.cos(), angles.sin()

    def rotate(x: Any) -> Any:
        first, second = x[..., :half], x[..., half:]
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)

    x = w["embeddings.word_embeddings.weight"][ids] + w["embeddings.token_type_embeddings.weight"][0]
    x = norm(x, "emb_ln")
    for layer in range(CONFIG["n_layer"]):
        name = f"encoder.layers.{layer}"
        q, k, v = (x @ w[f"{name}.attn.Wqkv.weight"].T).view(len(ids), 3, heads, 2 * half).permute(1, 2, 0, 3)
        context = functional.scaled_dot_product_attention(rotate(q), rotate(k), v)
        context = context.transpose(0, 1).reshape(len(ids), hidden)
        x = norm(context @ w[f"{name}.attn.out_proj.weight"].T + x, f"{name}.norm1")
        gated = (x @ w[f"{name}.mlp.fc11.weight"].T) * functional.silu(x @ w[f"{name}.mlp.fc12.weight"].T)
        x = norm(gated @ w[f"{name}.mlp.fc2.weight"].T + x, f"{name}.norm2")
    return x

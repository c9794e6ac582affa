"""Random checkpoints of a few hundred kilobytes, made at test time: no network, no data files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from appliance.bundle import DecoderSpec
from quantize.build import BuildOptions
from quantize.quiet import quiet
from quantize.sources.decoder_config import DecoderConfig
from quantize.sources.tensors import TensorWriter
from tests.quantize.nomic import write_nomic

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
VOCAB = 320
FORCED = BuildOptions(force=True)  # weights are random, which stops a build

_BASE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_TEXT_MODEL: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 1,
}
ENCODERS: dict[str, dict[str, Any]] = {
    "modernbert": {
        "local_attention": 16,
        "reference_compile": False,
        "cls_token_id": 1,
        "sep_token_id": 2,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
}
DECODERS: dict[str, dict[str, Any]] = {
    "llama": {"rope_scaling": _LLAMA3},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"head_dim": 32},
    "gemma3_text": {
        "head_dim": 32,
        "query_pre_attn_scalar": 32,
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "phi3": {},
    "mistral": {"sliding_window": 8},
    "smollm3": {"no_rope_layer_interval": 2, "tie_word_embeddings": True},
    "granite": {
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.6,
        "attention_multiplier": 0.2,
        "logits_scaling": 4.0,
        "tie_word_embeddings": True,
    },
}

# Those that optimum cannot export; their graphs come from the builder alone.
BUILT_DECODERS: dict[str, dict[str, Any]] = {
    "granitemoehybrid": {
        **DECODERS["granite"],
        "num_local_experts": 0,
        "num_experts_per_tok": 0,
        "shared_intermediate_size": 96,
        "layer_types": ["attention"] * 2,
        "position_embedding_type": "rope",
        "mamba_n_heads": 8,
        "rope_theta": 1e7,
    },
    "qwen3_moe": {
        "num_hidden_layers": 3,
        "head_dim": 32,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [1],
        "moe_intermediate_size": 32,
        "num_experts": 8,
        "num_experts_per_tok": 3,
        "norm_topk_prob": True,
    },
    "lfm2": {
        "num_hidden_layers": 4,
        "layer_types": ["conv", "full_attention", "conv", "full_attention"],
        "intermediate_size": 144,
        "block_multiple_of": 32,
        "conv_L_cache": 3,
        "norm_eps": 1e-4,
        "rope_theta": 1e5,
    },
}


# Of the granitemoehybrid family: Mamba-2 beside attention, without experts.
GRANITE_HYBRID: dict[str, Any] = {
    "num_hidden_layers": 4,
    "layer_types": ["mamba", "mamba", "attention", "mamba"],
    "position_embedding_type": "nope",
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_d_state": 32,
    "mamba_n_groups": 1,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_chunk_size": 16,
}


# The same with experts beside the MLP.
GRANITE_EXPERTS: dict[str, Any] = {
    **GRANITE_HYBRID,
    "intermediate_size": 32,
    "num_local_experts": 8,
    "num_experts_per_tok": 3,
}


def write_decoder(folder: Path, architecture: str, *, auto_class: str = "AutoModelForCausalLM", **changes: Any) -> Path:
    """Write a causal model with random weights that are large enough to matter, and its tokenizer."""
    with quiet():
        import torch
        import transformers

        torch.manual_seed(0)
        fields = {**_BASE, **(DECODERS | BUILT_DECODERS)[architecture], **changes}
        config = transformers.AutoConfig.for_model(architecture, **fields)
        model = getattr(transformers, auto_class).from_config(config)
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.data += torch.randn_like(parameter) * 0.1
            elif name.endswith("bias"):
                parameter.data = torch.randn_like(parameter) * 0.1
            elif name.endswith("A_log"):
                parameter.data = torch.rand_like(parameter).log()
            else:
                parameter.data *= 5
        model.save_pretrained(folder)
    if "sliding_window" in fields:  # transformers 4 saves half of a bidirectional window, and reads half of that
        change_json(folder / "config.json", sliding_window=fields["sliding_window"])
    write_tokenizer(folder)
    return folder


def write_bigrams(folder: Path, text: str, **changes: Any) -> Path:
    """Write a llama that has learnt which token follows which in a text, so that no witness doubts it."""
    write_decoder(folder, "llama", tie_word_embeddings=False, **changes)
    ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text, add_special_tokens=False).ids
    with quiet():
        import torch
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(folder)
        for name, parameter in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.data *= 0.01
        before, after = torch.tensor(ids[:-1]), torch.tensor(ids[1:])
        head = model.lm_head.weight
        optimizer = torch.optim.Adam([head], lr=0.05)
        with torch.no_grad():
            hidden = model.model(torch.arange(VOCAB)[:, None]).last_hidden_state[:, 0]
        for _ in range(100):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy((hidden @ head.T)[before], after).backward()
            optimizer.step()
        model.save_pretrained(folder)
    return folder


def write_encoder(folder: Path, architecture: str = "bert", *, pooling: str = "mean_tokens") -> Path:
    """Write a sentence-transformers folder with a random encoder."""
    if architecture == "nomic_bert":
        write_nomic(folder)
    else:
        _write_text_model(folder, architecture, "AutoModel")
    write_tokenizer(folder, truncate_at=32)
    modules = [{"type": f"sentence_transformers.models.{name}"} for name in ("Transformer", "Pooling", "Normalize")]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({f"pooling_mode_{pooling}": True}))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 64}))
    return folder


def write_body(
    folder: Path,
    architecture: str = "qwen3",
    *,
    pooling: str = "lasttoken",
    dense: tuple[int, ...] = (),
    **changes: Any,
) -> Path:
    """Write a sentence-transformers folder with a random decoder's body; its tokenizer puts a token behind a text.

    `dense`: the widths of the modules behind the pooling, which have no bias, but for the last of several.
    """
    write_decoder(folder, architecture, auto_class="AutoModel", **changes)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {SPECIALS[0]}", pair=f"$A $B {SPECIALS[0]}", special_tokens=[(SPECIALS[0], 0)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    write_sentence_files(folder, pooling, dense)
    return folder


def write_modules(folder: Path, kinds: list[str]) -> None:
    """Write modules.json."""
    entries = [
        {"type": f"sentence_transformers.models.{kind}", "path": f"{at}_{kind}" if at else ""}
        for at, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(entries))


def write_sentence_files(folder: Path, pooling: str, dense: tuple[int, ...] = ()) -> None:
    """Write the files of sentence-transformers around a checkpoint, with random dense modules."""
    write_modules(folder, ["Transformer", "Pooling", *["Dense"] * len(dense), "Normalize"])
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({f"pooling_mode_{pooling}": True}))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 64}))
    prompts = {"prompts": {"query": "Instruct: find\nQuery:", "document": ""}, "default_prompt_name": None}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    rng, config = np.random.default_rng(0), json.loads((folder / "config.json").read_text())
    width = config.get("embedding_dim", config.get("hidden_size"))
    for at, outputs in enumerate(dense):
        place, has_bias = folder / f"{at + 2}_Dense", at > 0
        place.mkdir()
        kind = "activation.Tanh" if has_bias else "linear.Identity"
        fields = {"in_features": width, "out_features": outputs, "bias": has_bias}
        (place / "config.json").write_text(json.dumps({**fields, "activation_function": f"torch.nn.modules.{kind}"}))
        shapes: dict[str, tuple[int, ...]] = {"linear.weight": (outputs, width)}
        shapes |= {"linear.bias": (outputs,)} if has_bias else {}
        with TensorWriter(place / "model.safetensors", shapes) as writer:
            for name, shape in shapes.items():
                writer.write(name, (rng.standard_normal(shape) * width**-0.5).astype(np.float32))
        width = outputs


def write_reranker(folder: Path, architecture: str = "bert", **changes: Any) -> Path:
    """Write a cross-encoder's folder with a random model of one label, and a tokenizer that knows pairs."""
    _write_text_model(folder, architecture, "AutoModelForSequenceClassification", num_labels=1, **changes)
    write_tokenizer(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{SPECIALS[1]} $A {SPECIALS[2]}",
        pair=f"{SPECIALS[1]} $A {SPECIALS[2]} $B:1 {SPECIALS[2]}:1",
        special_tokens=[(name, SPECIALS.index(name)) for name in SPECIALS[1:]],
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def _write_text_model(folder: Path, architecture: str, auto_class: str, **changes: Any) -> None:
    with quiet():
        import torch
        import transformers

        torch.manual_seed(0)
        fields = {**_TEXT_MODEL, **ENCODERS.get(architecture, {}), **changes}
        config = transformers.AutoConfig.for_model(architecture, **fields)
        pooler = {"add_pooling_layer": False} if auto_class == "AutoModel" and architecture != "modernbert" else {}
        model = getattr(transformers, auto_class).from_config(config, **pooler)
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                parameter.data *= 4
            elif "norm" in name.lower():
                parameter.data += torch.randn_like(parameter) * 0.1
        model.save_pretrained(folder)


def write_tokenizer(folder: Path, *, truncate_at: int | None = None) -> None:
    """Write a byte-level BPE with all tokens below VOCAB."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the quick brown fox jumps over the lazy dog and then it sleeps"] * 4, trainer)
    if truncate_at is not None:
        tokenizer.enable_truncation(truncate_at)
        tokenizer.enable_padding(length=truncate_at)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": TEMPLATE, "eos_token": SPECIALS[2]}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def change_json(path: Path, **fields: object) -> None:
    """Overwrite fields of a JSON object."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def tiny_spec(config: DecoderConfig) -> DecoderSpec:
    """Return what a device has to know of the graph of `write_decoder`, with a context of 64 tokens."""
    return DecoderSpec(
        architecture=config.architecture,
        context_length=64,
        vocab_size=config.vocab_size,
        num_layers=config.num_layers,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        eos_token_ids=(0,),
    )

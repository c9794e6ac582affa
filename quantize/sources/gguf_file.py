"""A GGUF file becomes a float32 checkpoint folder with its tokenizer."""

from __future__ import annotations

from pathlib import Path

from appliance.errors import QuantizeError
from quantize.quiet import quiet


def dequantize(gguf: Path, target: Path) -> None:
    """Write config.json, model.safetensors and the tokenizer's files.

    Raises:
        QuantizeError: truncated, of an unknown type, or of an architecture that transformers cannot read.
    """
    _check_magic(gguf)
    with quiet():
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        try:
            model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        except Exception as err:
            reason = (str(err).strip().splitlines() or [type(err).__name__])[0]
            raise QuantizeError(f"{gguf.name} cannot be read: {reason[:200]}") from err
        # transformers refuses to save a model that it still takes for a quantized one.
        for owner, field in ((model, "hf_quantizer"), (model, "is_quantized"), (model.config, "quantization_config")):
            if hasattr(owner, field):
                delattr(owner, field) if field in vars(owner) else None
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)
    # transformers saves the whole GGUF once more as the "vocabulary" of the slow tokenizer.
    (target / "tokenizer.model").unlink(missing_ok=True)


def _check_magic(gguf: Path) -> None:
    with gguf.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise QuantizeError(f"{gguf.name} is not a GGUF file; copy or download it again")

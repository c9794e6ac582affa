"""A program of the proofs' own environment: it publishes a random model as transformers 5 does, with its logits.

It imports nothing of this tree. Each line of its input names a folder that holds request.json, with the fields of the
configuration and rows of tokens; it writes the checkpoint and logits.npz beside it, and the line back.
"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path

import numpy as np
import torch
import transformers


def main(folder: Path) -> None:
    """Write the checkpoint and the logits of each row."""
    request = json.loads((folder / "request.json").read_text())
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(**request["config"])
    auto = transformers.AutoModelForImageTextToText if request["is_nested"] else transformers.AutoModelForCausalLM
    model = auto.from_config(config, attn_implementation="eager").eval().float()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter += torch.randn_like(parameter) * 0.1
            elif name.endswith("A_log"):
                parameter.copy_(torch.rand_like(parameter).log())
            elif name.endswith("bias"):
                parameter.copy_(torch.randn_like(parameter) * 0.1)
            else:
                parameter *= 5
        for name, buffer in model.named_buffers():
            if name.endswith("layer_scalar"):
                buffer.copy_(torch.rand_like(buffer) + 0.5)
            elif name.endswith(("expert_bias", "e_score_correction_bias")):
                buffer.copy_(torch.randn_like(buffer) * 0.5)
        rows = [torch.tensor(row)[None] for row in request["rows"]]
        logits = [model(input_ids=row).logits[0].numpy() for row in rows]
    model.save_pretrained(folder)
    np.savez(folder / "logits.npz", *logits)


for line in sys.stdin:
    with contextlib.redirect_stdout(sys.stderr):
        main(Path(line.rstrip("\n")))
    sys.stdout.write(line)
    sys.stdout.flush()

"""A program of the proofs' own environment: it publishes random models that read whole texts, with what they compute.

It imports nothing of this tree. Arguments: folders that hold request.json, with the fields of the configuration, the
class to load, rows of tokens, the token that pads them, and the fields of config.json to write anew. It writes the
checkpoint, and the hidden states or the logits of each row beside it: of the row alone (outputs.npz), and in one batch
with padding behind the shorter rows (padded.npz).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
import transformers


def main(folder: Path) -> None:
    """Write the checkpoint and the outputs of each row."""
    request = json.loads((folder / "request.json").read_text())
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(**request["config"])
    auto = getattr(transformers, request["auto_class"])
    model = auto.from_config(config, attn_implementation="eager").eval().float()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name.lower():
                parameter += torch.randn_like(parameter) * 0.1
            elif name.endswith("bias"):
                parameter.copy_(torch.randn_like(parameter) * 0.1)
            else:
                parameter *= 5
        for name, buffer in model.named_buffers():
            if name.endswith("layer_scalar"):
                buffer.copy_(torch.rand_like(buffer) + 0.5)
        rows = request["rows"]
        alone = [outputs_of(model, torch.tensor(row)[None], torch.ones(1, len(row)))[0] for row in rows]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [request["pad"]] * (longest - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        padded = [found[: len(row)] for found, row in zip(outputs_of(model, ids, mask), rows, strict=True)]
    model.save_pretrained(folder)
    written = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**written, **request["written"]}))
    np.savez(folder / "outputs.npz", *alone)
    np.savez(folder / "padded.npz", *padded)


def outputs_of(model: torch.nn.Module, ids: torch.Tensor, mask: torch.Tensor) -> np.ndarray:
    """Compute the logits of all tokens, or the hidden states where the model has no head."""
    found = model(input_ids=ids, attention_mask=mask.long())
    return np.asarray((found.logits if "logits" in found else found.last_hidden_state).numpy())


for argument in sys.argv[1:]:
    main(Path(argument))

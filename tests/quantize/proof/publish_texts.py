"""A program of the proofs' own environment: it publishes random models that read whole texts, with what they compute.

It imports nothing of this tree. Arguments: folders that hold request.json, with the fields of the configuration, the
class to load, rows of tokens, and the fields of config.json to write anew; it writes the checkpoint and outputs.npz,
with the hidden states or the logits of each row, beside it.
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
        outputs = []
        for row in request["rows"]:
            found = model(input_ids=torch.tensor(row)[None])
            outputs.append((found.logits if "logits" in found else found.last_hidden_state)[0].numpy())
    model.save_pretrained(folder)
    written = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**written, **request["written"]}))
    np.savez(folder / "outputs.npz", *outputs)


for argument in sys.argv[1:]:
    main(Path(argument))

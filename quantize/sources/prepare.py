"""The folder that later stages work on: what was read of a checkpoint, and nothing else.

config.json is written anew in its canonical form. Weights are linked where they can stay as they are, else copied or
written as float32, one tensor at a time.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from appliance.bundle.manifest import CHAT_TEMPLATE_NAME, TOKENIZER_NAME
from quantize.sources.checkpoint import Checkpoint
from quantize.sources.families import DECODERS
from quantize.sources.folder import inside
from quantize.sources.matching import Weights
from quantize.sources.quantized import dequantized
from quantize.sources.rotations import rotations
from quantize.sources.sentence import layout_files
from quantize.sources.templates import read_chat_template
from quantize.sources.tensors import TensorWriter
from quantize.sources.tokenizer import read_tokenizer

_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_KEPT = ("tokenizer_config.json", "special_tokens_map.json", "README.md")


def prepare(checkpoint: Checkpoint, target: Path, *, copies: bool = True) -> None:
    """Fill an empty folder; without `copies` weights that cannot be linked stay where they are.

    Raises:
        QuantizeError: the tokenizer, the chat template or a file beside the weights cannot be used.
    """
    folder, config = checkpoint.folder, checkpoint.config
    tokenizer = read_tokenizer(folder, config["vocab_size"])
    (target / TOKENIZER_NAME).write_bytes(tokenizer.content)
    write_config(target, config)
    if config["model_type"] in DECODERS:
        template = read_chat_template(folder)
        if template is not None:
            (target / CHAT_TEMPLATE_NAME).write_text(template, encoding="utf-8")
        if checkpoint.generation:
            write_json(target / "generation_config.json", checkpoint.generation)
    for path in (*(inside(folder, name) for name in _KEPT), *sorted(folder.glob("LICENSE*"))):
        if inside(folder, path.name).is_file():
            shutil.copyfile(path, target / path.name)
    for name in layout_files(folder):
        (target / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(inside(folder, name), target / name)
    if copies or checkpoint.weights.as_stored:
        write_weights(checkpoint.weights, target)


def has_weights(folder: Path) -> bool:
    """Tell if a prepared folder holds the weights, too."""
    return any(folder.glob("*.safetensors"))


def write_config(target: Path, config: Mapping[str, Any]) -> None:
    """Write config.json so that transformers 4 reads it.

    Its Phi-3 knows longrope by `type` alone, and refuses an attention_factor, which it computes itself.
    """
    scaling = config.get("rope_scaling")
    if config["model_type"] == "phi3" and scaling:
        renamed = {"type" if key == "rope_type" else key: value for key, value in scaling.items()}
        plain = {key: value for key, value in scaling.items() if key != "attention_factor"}
        usual = rotations({**config, "rope_scaling": plain})
        if scaling["rope_type"] == "longrope" and rotations(config) == usual:
            renamed.pop("attention_factor", None)
        config = {**config, "rope_scaling": renamed}
    write_json(target / "config.json", config)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write an object as transformers does, keys in order."""
    path.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def write_weights(weights: Weights, target: Path) -> None:
    """Link the files of weights, or write them anew as float32."""
    if weights.as_stored:
        _link(weights, target)
        return
    with TensorWriter(target / _WEIGHTS, {name: tensor.shape for name, tensor in weights.tensors.items()}) as writer:
        for name, tensor in weights.tensors.items():
            scale = weights.scales.get(name)
            values = tensor.load() if scale is None else dequantized(tensor, scale, weights.block)
            writer.write(name, np.asarray(values, np.float32))


def _link(weights: Weights, target: Path) -> None:
    files = sorted({tensor.path for tensor in weights.tensors.values()})
    names = {path: _WEIGHTS if len(files) == 1 else path.name for path in files}
    for path, name in names.items():
        link_or_copy(path, target / name)
    if len(files) > 1:
        places = {tensor.name: names[tensor.path] for tensor in weights.tensors.values()}
        size = sum(tensor.size_bytes for tensor in weights.tensors.values())
        write_json(target / _INDEX, {"metadata": {"total_size": size}, "weight_map": places})


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name, so that its bytes stay where the first one is removed; copy it to another disk."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)

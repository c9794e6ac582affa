"""Changes to a checkpoint's files: keys and tensors dropped, renamed, reshaped, of another type, or added."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from quantize.sources.checkpoint import read_checkpoint

Entry = tuple[str, tuple[int, ...], bytes]
KINDS = (
    *(f"{change} key" for change in ("drop", "rename", "retype", "add")),
    "drop part",
    *(f"{change} tensor" for change in ("drop", "rename", "reshape", "retype", "add")),
)
_WEIGHTS = "model.safetensors"


@dataclass(frozen=True, slots=True)
class Original:
    """A checkpoint's small files and tensors in memory, and what reading it gives."""

    folder: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, Entry]
    reading: object

    @classmethod
    def of(cls, folder: Path) -> Original:
        config = json.loads((folder / "config.json").read_text())
        return cls(folder, config, read_tensors(folder / _WEIGHTS), reading_of(folder))


def reading_of(folder: Path) -> object:
    """All numbers of the model that the reader makes of a folder."""
    found = read_checkpoint(folder)
    tensors = {name: np.asarray(tensor.load(), np.float32).tobytes() for name, tensor in found.weights.tensors.items()}
    shapes = {name: tensor.shape for name, tensor in found.weights.tensors.items()}
    bos = found.config.get("bos_token_id") or found.generation.get("bos_token_id")
    eos = {*(found.config.get("eos_token_id") or ()), *(found.generation.get("eos_token_id") or ())}
    config = {name: value for name, value in found.config.items() if name not in ("bos_token_id", "eos_token_id")}
    return json.dumps(config, sort_keys=True), tensors, shapes, bos, eos


def read_tensors(path: Path) -> dict[str, Entry]:
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + length])
    header.pop("__metadata__", None)
    found: dict[str, Entry] = {}
    for name, entry in header.items():
        first, last = (8 + length + offset for offset in entry["data_offsets"])
        found[name] = (entry["dtype"], tuple(entry["shape"]), raw[first:last])
    return found


def write_tensors(path: Path, tensors: Mapping[str, Entry]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + len(data)]}
        end += len(data)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(data for *_, data in tensors.values()))


def mutated(original: Original, kind: str, pick: int, variant: int, target: Path) -> set[str]:
    """Write the changed checkpoint into the target folder; the names of which a refusal has to say one."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(original.folder, target)
    config, tensors = json.loads(json.dumps(original.config)), dict(original.tensors)
    if kind.endswith(("key", "part")):
        culprits = _change_config(config, kind, pick, variant)
        (target / "config.json").write_text(json.dumps(config))
        return culprits
    name = sorted(tensors)[pick % len(tensors)]
    culprits = _change_tensors(tensors, name, kind, variant)
    write_tensors(target / _WEIGHTS, tensors)
    return culprits


def _change_config(config: dict[str, Any], kind: str, pick: int, variant: int) -> set[str]:
    name = sorted(config)[pick % len(config)]
    parts = sorted(key for key, value in config.items() if isinstance(value, dict) and value)
    match kind:
        case "drop key":
            del config[name]
        case "rename key":
            new = (f"{name}_", f"_{name}", name.upper(), name.replace("_", "-"))[variant % 4]
            if new in config:
                return {name}
            config[new] = config.pop(name)
            return {name, new}
        case "retype key":
            config[name] = _other_type(config[name], variant)
        case "add key":
            new = ("rope_factor", "num_shared_experts", "attention_scale", "sliding", "alibi")[variant % 5]
            config[new] = (2, 0.5, True, [1], "yes")[(variant // 5) % 5]
            return {new}
        case _ if parts:
            outer = parts[pick % len(parts)]
            inner = sorted(config[outer])[variant % len(config[outer])]
            del config[outer][inner]
            return {outer, inner}
    return {name}


def _other_type(value: Any, variant: int) -> Any:
    others: list[Any] = [str(value), [value], {"value": value}, None, float("nan")]
    if isinstance(value, bool):
        others.append(int(value))
    elif isinstance(value, int | float):
        others += [-value - 1, *([value + 0.5] if isinstance(value, int) else [])]
    return others[variant % len(others)]


def _change_tensors(tensors: dict[str, Entry], name: str, kind: str, variant: int) -> set[str]:
    dtype, shape, data = tensors[name]
    match kind:
        case "drop tensor":
            del tensors[name]
        case "rename tensor":
            new = (f"{name}s", f"module.{name}", name.replace("weight", "w"), name.replace(".0.", ".00."), f"{name}.0")[
                variant % 5
            ]
            tensors[new] = tensors.pop(name)
            return {name, new}
        case "reshape tensor":
            tensors[name] = (dtype, _other_shape(shape, variant), data)
        case "retype tensor":
            new = ("I32", "U32", "F16", "BF16", "I8", "F64", "F8_E4M3")[variant % 7]
            size = {"I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I8": 1, "F64": 8, "F8_E4M3": 1}[new]
            last = shape[-1] * 4 // size
            tensors[name] = (new, (*shape[:-1], last), data)
        case _:
            new = ("extra.weight", f"{name}_g", f"{name}.bias", "model.layers.9.mlp.up_proj.weight", f"copy.{name}")[
                variant % 5
            ]
            tensors[new] = tensors[name]
            return {new, "layers"}
    return {name}


def _other_shape(shape: tuple[int, ...], variant: int) -> tuple[int, ...]:
    size = int(np.prod(shape))
    forms = [
        (size,),
        (1, *shape),
        (*shape, 1),
        shape[::-1],
        (shape[0] // 2, size // (shape[0] // 2)) if shape[0] > 1 else (size, 1),
    ]
    others = [form for form in forms if form != shape]
    return others[variant % len(others)]

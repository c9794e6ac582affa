"""What a checkpoint folder says of itself: config.json and its neighbours, checked against the weights."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from appliance.errors import QuantizeError

DECODERS = frozenset({"llama", "qwen2", "qwen3", "gemma3_text", "phi3", "mistral", "smollm3", "granite"})
ENCODERS = frozenset({"bert", "roberta", "xlm-roberta", "mpnet", "nomic_bert", "modernbert"})
_EMBEDDINGS = ("embed_tokens.weight", "word_embeddings.weight", "tok_embeddings.weight")
_OTHER_NAMES = {"hidden_size": "n_embd", "num_hidden_layers": "n_layer"}  # as the elders of some configs have it
_CLASSIFIER = "ForSequenceClassification"
_MAX_HEADER_BYTES = 100 << 20


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        QuantizeError: absent or not a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as err:
        raise QuantizeError(f"the checkpoint has no {path.name}") from err
    except (ValueError, RecursionError) as err:
        raise QuantizeError(f"{path.name} is not JSON; copy the checkpoint again") from err
    if not isinstance(value, dict):
        raise QuantizeError(f"{path.name} is not a JSON object; copy the checkpoint again")
    return value


def architecture_of(folder: Path) -> str:
    """The model type, when it is one that can be built.

    Raises:
        QuantizeError: unknown.
    """
    name = read_json(folder / "config.json").get("model_type")
    if name not in DECODERS | ENCODERS:
        known = ", ".join(sorted(DECODERS | ENCODERS))
        raise QuantizeError(f"config.json names the architecture {name!r}; known are {known}")
    return str(name)


def is_reranker(folder: Path) -> bool:
    """Whether an encoder scores pairs of texts: it has a head with one label.

    Raises:
        QuantizeError: its head has several labels.
    """
    raw = read_json(folder / "config.json")
    names = raw.get("architectures") or []
    has_head = any(str(name).endswith(_CLASSIFIER) for name in names)
    if raw.get("model_type") not in ENCODERS or not has_head or (folder / "1_Pooling").is_dir():
        return False
    labels = raw.get("num_labels") or len(raw.get("id2label") or (0, 1))
    if labels != 1:
        raise QuantizeError(f"config.json has {labels} labels; a reranker has one")
    return True


def check_weights(folder: Path) -> None:
    """Read the headers of all safetensors files and hold them against config.json.

    Raises:
        QuantizeError: no weights, a truncated file, or an embedding of another shape than the config says.
    """
    shapes: dict[str, list[int]] = {}
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise QuantizeError("the checkpoint holds no safetensors file; convert its weights first")
    for path in files:
        shapes |= _safetensors_shapes(path)
    raw = read_json(folder / "config.json")
    raw = {**{name: raw.get(other) for name, other in _OTHER_NAMES.items()}, **raw}
    expected = [count_in(raw, "vocab_size"), count_in(raw, "hidden_size")]
    for name, shape in shapes.items():
        if name.endswith(_EMBEDDINGS) and shape != expected:
            raise QuantizeError(f"{name} has the shape {shape}, but config.json says {expected}")
    layers = count_in(raw, "num_hidden_layers")
    indices = {int(part) for name in shapes for part in name.split(".") if part.isdigit() and ".layer" in f".{name}"}
    if indices and max(indices) + 1 != layers:
        raise QuantizeError(f"the weights have {max(indices) + 1} layers, but config.json says {layers}")


def _safetensors_shapes(path: Path) -> dict[str, list[int]]:
    size = path.stat().st_size
    damaged = QuantizeError(f"{path.name} is truncated or damaged; copy the checkpoint again")
    with path.open("rb") as file:
        head = file.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
        if not 2 <= length <= min(size - 8, _MAX_HEADER_BYTES):
            raise damaged
        try:
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            ends = [entry["data_offsets"][1] for entry in header.values()]
            shapes = {name: list(entry["shape"]) for name, entry in header.items()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as err:
            raise damaged from err
    if size != 8 + length + max(ends, default=0):
        raise damaged
    return shapes


def count_in(raw: dict[str, Any], field: str, default: int | None = None) -> int:
    """A positive number of config.json.

    Raises:
        QuantizeError: it is absent without a default, or anything else.
    """
    value = raw.get(field)
    if value is None:
        value = default
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise QuantizeError(f"{field} in config.json is {value!r}; a positive number is needed")
    return value

"""The published model as transformers computes it: from the source itself if it reads such sources right.

Otherwise transformers reads the canonical checkpoint that the build made, and so tells about the graph alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from appliance.errors import QuantizeError
from appliance.host.memory import available_bytes
from quantize.quiet import quiet
from quantize.sources.checkpoint import read_json
from quantize.sources.gguf_config import ROPE_FACTORS
from quantize.sources.gguf_header import read_gguf, split_files
from quantize.sources.tensors import read_header

Read = Literal["source", "canonical"]
Float32 = NDArray[np.float32]

TOKENS_NAME, POSITIONS_NAME, LOGITS_NAME = "tokens.npy", "positions.npy", "logits.npy"  # what processes exchange

_NEWEST = 4  # major version of transformers that reads here; 5 writes rope_parameters, which 4 passes over
_GGUF_FAMILIES = frozenset({"llama", "qwen2", "qwen3"})  # those whose keys transformers 4.57 reads all
_SHARE = 0.5  # of the available memory
_FLOAT_BYTES = 4
_UNUSED = ("pooler.",)  # of an encoder whose hidden states are pooled outside
_SCALING = ".rope.scaling.type"
_CODE = re.compile(r"_(attn|experts)_implementation(_internal)?$|^attn_implementation$")


@dataclass(frozen=True, slots=True)
class Published:
    """A place from which transformers can load the model; `reason` tells why it is not the source itself."""

    path: Path
    read: Read
    reason: str | None = None

    def outputs(self, auto_class: str, compute: Callable[[Any], Float32]) -> Float32:
        """Load a text model in float32, and return what the function computes with it.

        Raises:
            QuantizeError: transformers does not find every weight, or refuses the model.
        """
        with quiet():
            import torch

            model = self._loaded(auto_class)
            try:
                with torch.inference_mode():
                    return compute(model)
            except Exception as err:
                raise refused(err) from err

    def _loaded(self, auto_class: str) -> Any:
        import torch
        import transformers

        try:
            model, found = getattr(transformers, auto_class).from_pretrained(
                str(self.path),
                dtype=torch.float32,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
        except Exception as err:
            raise refused(err) from err
        absent = {*found["missing_keys"], *(entry[0] for entry in found["mismatched_keys"])}
        if missing := sorted(name for name in absent if not name.startswith(_UNUSED)):
            raise QuantizeError(f"transformers finds no weight for {missing[0]}")
        return model.eval()


def refused(err: Exception) -> QuantizeError:
    """Return the first line of what transformers said."""
    said = (str(err).strip().splitlines() or [type(err).__name__])[0]
    return QuantizeError(f"transformers refuses it: {said[:200]}")


def decoder_places(source: Path, checkpoint: Path) -> list[Published]:
    """Return the places to read layer by layer, the source first if transformers reads it right; none without memory.

    Embedding and head are in memory at once.
    """
    config = read_json(checkpoint / "config.json")
    tables = 1 if config["tie_word_embeddings"] else 2
    if _FLOAT_BYTES * tables * config["vocab_size"] * config["hidden_size"] > _SHARE * available_bytes():
        return []
    reason = _unreadable(source)
    found = [Published(source, "source")] if reason is None else []
    return [*found, Published(checkpoint, "canonical", reason)]


def places(source: Path, checkpoint: Path) -> list[Published]:
    """Return the places to load a text model from; none if memory is short."""
    reason = _unreadable(source)
    if reason is None and _resident_bytes(source) > _SHARE * available_bytes():
        reason = "memory is short"
    found = [Published(source, "source")] if reason is None else []
    if _resident_bytes(checkpoint) <= _SHARE * available_bytes():
        found.append(Published(checkpoint, "canonical", reason))
    return found


def _unreadable(source: Path) -> str | None:
    """Return the reason why transformers does not read the source itself as published."""
    if source.suffix == ".gguf":
        return _unreadable_gguf(source)
    raw = read_json(source / "config.json")
    if any(_CODE.search(key) for key in raw):
        return "config.json chooses code for attention, which transformers 4 may download and run (CVE-2026-4372)"
    version = re.match(r"\d+", str(raw.get("transformers_version") or ""))
    if "rope_parameters" in raw or (version is not None and int(version[0]) > _NEWEST):
        return "config.json is of a newer transformers"
    if "text_config" in raw:
        return "the source holds more than a text model"
    if raw.get("quantization_config"):
        return "the weights are stored in FP8"
    if not any((source / name).is_file() for name in ("model.safetensors", "model.safetensors.index.json")):
        return "the files of weights have names of their own"
    return None


def _unreadable_gguf(path: Path) -> str | None:
    gguf = read_gguf(path)
    if len(split_files(path)) > 1:
        return "transformers does not read a GGUF file that is split"
    if gguf.architecture not in _GGUF_FAMILIES:
        return f"transformers does not read every key of {gguf.architecture} in a GGUF file"
    if any(name in gguf.tensors for name in ROPE_FACTORS) or f"{gguf.architecture}{_SCALING}" in gguf.metadata:
        return "transformers passes over the frequency factors of a GGUF file"
    return None


def _resident_bytes(folder: Path) -> int:
    """Return the memory of the weights in float32; those that are stored so stay in the file."""
    total = 0
    for path in folder.glob("*.safetensors"):
        shapes = [tensor.shape for tensor in read_header(path).values() if tensor.dtype != "F32"]
        total += _FLOAT_BYTES * sum(map(math.prod, shapes))
    return total

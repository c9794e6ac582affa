"""A published decoder as transformers computes it, with the weights of one layer in memory at a time.

transformers' own code reads the source: its names and transformations of a GGUF file, and safetensors' reader for a
folder. None of it is shared with the reading that made the float graph.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from appliance.errors import QuantizeError
from quantize.builder.weights import weights_of
from quantize.precision.torch_blocks import Parameters, TorchBlocks, empty_model
from quantize.precision.workers import Message, serve
from quantize.quiet import quiet
from quantize.witness.published import LOGITS_NAME, POSITIONS_NAME, TOKENS_NAME, Published, refused

_INDEX = "model.safetensors.index.json"

Float32 = NDArray[np.float32]


def start(setup: Message) -> Callable[[Message], Message]:
    """Return the function that computes the logits of a text at some positions, read from files and written to one."""
    torch.set_num_threads(setup["threads"])

    def run(task: Message) -> Message:
        folder, place = Path(task["folder"]), Published(Path(task["path"]), task["read"])
        tokens, positions = np.load(folder / TOKENS_NAME), np.load(folder / POSITIONS_NAME)
        np.save(folder / LOGITS_NAME, published_logits(place, Path(task["source"]), tokens, positions))
        return {}

    return run


def published_logits(
    place: Published, source: Path, tokens: NDArray[np.int64], positions: NDArray[np.int64]
) -> Float32:
    """Return the logits (positions, V) of a text; `source` holds the weights of a canonical place that has none.

    Raises:
        QuantizeError: transformers does not find every weight, or refuses the model.
    """
    try:
        with quiet():
            blocks = _blocks(place, source, torch.from_numpy(tokens))
        with torch.inference_mode():
            return _computed(blocks, torch.from_numpy(tokens), torch.from_numpy(positions))
    except QuantizeError:
        raise
    except Exception as err:
        raise refused(err) from err


def _computed(blocks: TorchBlocks, text: torch.Tensor, positions: torch.Tensor) -> Float32:
    blocks.learn_arguments(text)
    hidden = blocks.embedded(text)
    for index in range(len(blocks.layers)):
        with blocks.layer(index):
            hidden = blocks.compute(index, hidden)
    return np.asarray(blocks.logits(hidden, text, positions).numpy(), np.float32)


def _blocks(place: Published, source: Path, text: torch.Tensor) -> TorchBlocks:
    if place.read == "canonical":
        return TorchBlocks.canonical(place.path, weights_of(source, place.path), tokens=text)
    return _of_gguf(place.path, text) if place.path.suffix == ".gguf" else _of_folder(place.path, text)


def _of_gguf(path: Path, text: torch.Tensor) -> TorchBlocks:
    """Open a GGUF file with the names and the transformations of transformers."""
    from gguf import GGUFReader, dequantize
    from transformers import AutoConfig
    from transformers import modeling_gguf_pytorch_utils as reading

    parsed = reading.load_gguf_checkpoint(str(path))["config"]
    model = empty_model(AutoConfig.for_model(**parsed))
    names = reading.get_gguf_hf_weights_map(model)
    reader = GGUFReader(str(path))
    family = str(bytes(reader.fields["general.architecture"].parts[-1]), "utf-8")
    processor = reading.TENSOR_PROCESSORS.get(family, reading.TensorProcessor)(config=parsed)

    def read(tensor: Any) -> Float32:
        values = processor.process(weights=dequantize(tensor.data, tensor.tensor_type), name=tensor.name).weights
        return np.asarray(values, np.float32)

    tensors = {names[tensor.name]: partial(read, tensor) for tensor in reader.tensors if tensor.name in names}
    return TorchBlocks(model, tensors, tokens=text)


def _of_folder(folder: Path, text: torch.Tensor) -> TorchBlocks:
    """Open a folder with safetensors' reader, and the names in its files."""
    from transformers import AutoConfig

    model = empty_model(AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False))
    files = _files(folder)
    base = str(model.base_model_prefix)
    is_base_alone = hasattr(model, base) and not any(name.startswith(f"{base}.") for name in files)
    return TorchBlocks(model, _parameters(files, f"{base}." if is_base_alone else ""), tokens=text)


def _parameters(files: Mapping[str, Path], prefix: str) -> Parameters:
    from safetensors import safe_open

    def read(name: str) -> Float32:
        with safe_open(files[name], framework="pt") as file:
            return np.asarray(file.get_tensor(name).float().numpy(), np.float32)

    return {f"{prefix}{name}": partial(read, name) for name in files}


def _files(folder: Path) -> Mapping[str, Path]:
    """Return the file of each tensor."""
    from safetensors import safe_open

    if (folder / _INDEX).is_file():
        named: dict[str, str] = json.loads((folder / _INDEX).read_text())["weight_map"]
        return {name: folder / file for name, file in named.items()}
    path = folder / "model.safetensors"
    with safe_open(path, framework="pt") as file:
        return dict.fromkeys(file.keys(), path)


if __name__ == "__main__":
    serve(start)

"""A GGUF file in float32 whose weights lie off the grid of the file that they come from.

    python -m tests.quantize.dithered Q4_K_M.gguf DITHERED.gguf

Weights that were stored as Q4_K once are exactly what Q4_K can hold, so that it loses nearly nothing beside them: a
comparison of formats would flatter it. Each weight of a matrix moves by a random part of half a step of its block, as
if it had been rounded to that step.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from quantize.quiet import quiet

if TYPE_CHECKING:
    from gguf import GGUFReader, GGUFWriter

_BLOCK = 16  # columns, of one step in every format that GGUF files of llama.cpp have
_OWN_KEYS = ("GGUF.", "general.architecture", "general.file_type", "general.quantization_version")
_SMALLEST_STEP = 1e-3  # of a block's largest magnitude; a smaller difference is of two roundings


def write_dithered(source: Path, target: Path, *, seed: int = 0) -> Path:
    """Write the tensors of `source` in float32, its matrices off their grid, with the same metadata."""
    with quiet():
        import gguf

    reader, random = gguf.GGUFReader(source), np.random.default_rng(seed)
    writer = gguf.GGUFWriter(str(target), str(reader.fields["general.architecture"].contents()), use_temp_file=True)
    _copy_metadata(reader, writer)
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        is_stored = tensor.tensor_type not in (gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16)
        writer.add_tensor(tensor.name, dithered(values, random) if is_stored else values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def dithered(values: NDArray[np.float32], random: np.random.Generator) -> NDArray[np.float32]:
    """Return the values (N, K), each moved by up to half the step of its block of columns."""
    blocks = values.reshape(*values.shape[:-1], -1, _BLOCK)
    differences = np.diff(np.sort(blocks, axis=-1), axis=-1)
    peaks = np.abs(blocks).max(axis=-1, keepdims=True)
    steps = np.where(differences > _SMALLEST_STEP * peaks, differences, np.inf).min(axis=-1, keepdims=True)
    steps = np.where(np.isfinite(steps), steps, 0)
    moved = blocks + steps * (random.random(blocks.shape, np.float32) - np.float32(0.5))
    return np.asarray(moved.reshape(values.shape), np.float32)


def _copy_metadata(reader: GGUFReader, writer: GGUFWriter) -> None:
    for name, field in reader.fields.items():
        if not name.startswith(_OWN_KEYS):
            kinds = field.types
            writer.add_key_value(name, field.contents(), kinds[0], kinds[-1] if len(kinds) > 1 else None)


def main() -> None:
    """Write the file that the arguments name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args()
    write_dithered(arguments.source, arguments.target)


if __name__ == "__main__":
    main()

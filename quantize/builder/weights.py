"""The tensors of a checkpoint by their canonical names, as the blocks of a graph take them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quantize.sources.census import decoder_shapes
from quantize.sources.checkpoint import read_checkpoint
from quantize.sources.decoder_keys import read_decoder_keys
from quantize.sources.fields import read_json
from quantize.sources.folder import read_weight_files
from quantize.sources.gguf_file import ConvertedTensor, GgufCheckpoint, read_gguf_tensors
from quantize.sources.modules import pools_hidden_states
from quantize.sources.prepare import has_weights
from quantize.sources.quantized import ScaledTensor
from quantize.sources.tensors import Rows

Weights = Mapping[str, Rows]


@dataclass(frozen=True, slots=True)
class RowRange:
    """Neighbouring rows of a stored tensor, as a tensor."""

    stored: Rows
    start: int
    stop: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return (self.stop - self.start, *self.stored.shape[1:])

    def slabs(self, num_rows: int) -> Iterator[NDArray[np.float32]]:
        """Return its rows in order as float32, at most so many at once; the whole stored tensor is read."""
        place = 0
        for slab in self.stored.slabs(num_rows):
            first, last = max(self.start - place, 0), min(self.stop - place, len(slab))
            if first < last:
                yield slab[first:last]
            place += len(slab)


def weights_of(source: Path, checkpoint: Path) -> Weights:
    """Return a decoder's tensors: those of the checkpoint's folder, or else of the source, which holds another form.

    Raises:
        QuantizeError: a file is missing or damaged.
    """
    if has_weights(checkpoint):
        return checkpoint_weights(checkpoint)
    if source.suffix == ".gguf":
        config, tensors = read_gguf_tensors(source)
        return {name: ConvertedTensor(name, tensor, config) for name, tensor in tensors.items()}
    found = read_checkpoint(source).weights
    return {
        name: ScaledTensor(tensor, found.scales[name], found.block) if name in found.scales else tensor
        for name, tensor in found.tensors.items()
    }


def checkpoint_weights(checkpoint: Path) -> Weights:
    """Return the tensors of a folder that the checkpoint's stage wrote.

    Raises:
        QuantizeError: a file is missing or damaged.
    """
    tensors = read_weight_files(checkpoint).tensors
    is_body = pools_hidden_states(checkpoint)
    keys = read_decoder_keys(read_json(checkpoint / "config.json"), is_body=is_body).config
    return {name: tensors[name] for name in decoder_shapes(keys, is_body=is_body)}


def gguf_weights(found: GgufCheckpoint) -> Weights:
    """Return the tensors of a GGUF file in transformers' form."""
    return {name: ConvertedTensor(name, tensor, found.config) for name, tensor in found.tensors.items()}


def whole(rows: Rows) -> NDArray[np.float32]:
    """Return all values of a tensor, such as a bias, at once."""
    return next(rows.slabs(rows.shape[0]))

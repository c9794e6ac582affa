"""What gets a width of its own: a matrix, or a part of one that the fusion joined from several projections.

A projection's outputs are rows of the stored matrix, so that queries, keys and values can differ though they are one
product in the float graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from appliance.bundle import DecoderSpec
from quantize.graph.codec import Bits, QuantizedMatrix, matrix_bytes
from quantize.precision.weights import HEAD, Matrix

Widths = Mapping[str, Bits]  # by the parts' names

_QKV, _GATE_UP = "qkv_proj", "gate_up_proj"


@dataclass(frozen=True, slots=True)
class Part:
    """Some rows of a matrix, named like the checkpoint's own projection: "layers.0/self_attn/q_proj"."""

    name: str
    matrix: str
    start: int
    stop: int
    num_inputs: int

    @property
    def is_head(self) -> bool:
        """Whether it gives the logits."""
        return self.matrix == HEAD

    @property
    def num_codes(self) -> int:
        """How many weights it has."""
        return (self.stop - self.start) * self.num_inputs

    @property
    def rows(self) -> slice:
        """Its rows within the matrix."""
        return slice(self.start, self.stop)

    def size_bytes(self, bits: Bits) -> int:
        """What it takes in the file."""
        return matrix_bytes(self.stop - self.start, self.num_inputs, bits)

    def matches(self, patterns: Sequence[str]) -> bool:
        """Whether a pattern (fnmatch) names this part, or the matrix that it belongs to."""
        return any(fnmatchcase(name, pattern) for pattern in patterns for name in (self.name, self.matrix))


def parts_of(matrix: Matrix, spec: DecoderSpec) -> list[Part]:
    """The parts in the order of their rows; a matrix that is no joined one is its own only part."""
    ends, names = [matrix.num_outputs], [matrix.name]
    if matrix.name.endswith(_QKV):
        key_rows = spec.num_kv_heads * spec.head_dim
        ends = [matrix.num_outputs - 2 * key_rows, matrix.num_outputs - key_rows, matrix.num_outputs]
        names = [f"{matrix.name.removesuffix(_QKV)}{letter}_proj" for letter in "qkv"]
    elif matrix.name.endswith(_GATE_UP):
        ends = [matrix.num_outputs // 2, matrix.num_outputs]
        names = [f"{matrix.name.removesuffix(_GATE_UP)}{name}_proj" for name in ("gate", "up")]
    starts = [0, *ends[:-1]]
    return [
        Part(name, matrix.name, start, end, matrix.num_inputs)
        for name, start, end in zip(names, starts, ends, strict=True)
    ]


def pieces_of(parts: Sequence[Part], widths: Widths, stored: Mapping[Bits, QuantizedMatrix]) -> list[QuantizedMatrix]:
    """The matrix whole where all parts have one width, else part by part; `stored` holds it in each width needed."""
    if len(stored) == 1:
        return list(stored.values())
    return [stored[widths[part.name]].rows(part.rows) for part in parts]

"""The parts that have a width of their own: a matrix, or one of several projections that the fusion joined.

A projection's outputs are rows of the stored matrix, so that queries, keys and values can differ though they are one
product in the float graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from appliance.bundle import DecoderSpec
from quantize.graph.codec import Bits, QuantizedMatrix, matrix_bytes
from quantize.precision.matrices import HEAD, Matrix

Widths = Mapping[str, Bits]  # by the parts' names
Patterns = Mapping[Bits, Sequence[str]]  # of the names of parts, for each width above 4 bits

_QKV = "qkv_proj"
# Other projections that are one product: two of equal size.
_HALVES = {"gate_up_proj": ("gate_proj", "up_proj"), "w1_w3": ("w1", "w3")}


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
        """True for the product that gives the logits."""
        return self.matrix == HEAD

    @property
    def num_codes(self) -> int:
        """The number of its weights."""
        return (self.stop - self.start) * self.num_inputs

    @property
    def rows(self) -> slice:
        """Its rows within the matrix."""
        return slice(self.start, self.stop)

    def size_bytes(self, bits: Bits) -> int:
        """Return its bytes in the file."""
        return matrix_bytes(self.stop - self.start, self.num_inputs, bits)

    def matches(self, patterns: Sequence[str]) -> bool:
        """Tell if a pattern (fnmatch) names this part, or the matrix that it belongs to."""
        return any(fnmatchcase(name, pattern) for pattern in patterns for name in (self.name, self.matrix))


def parts_of(matrix: Matrix, spec: DecoderSpec) -> list[Part]:
    """Return the parts in the order of their rows; a matrix of one projection is its own only part."""
    ends, names = [matrix.num_outputs], [matrix.name]
    path, _, last = matrix.name.rpartition("/")
    if last == _QKV:
        key_rows = _key_rows(path, spec)
        ends = [matrix.num_outputs - 2 * key_rows, matrix.num_outputs - key_rows, matrix.num_outputs]
        names = [f"{path}/{letter}_proj" for letter in "qkv"]
    elif last in _HALVES:
        ends = [matrix.num_outputs // 2, matrix.num_outputs]
        names = [f"{path}/{name}" for name in _HALVES[last]]
    starts = [0, *ends[:-1]]
    return [
        Part(name, matrix.name, start, end, matrix.num_inputs)
        for name, start, end in zip(names, starts, ends, strict=True)
    ]


def _key_rows(path: str, spec: DecoderSpec) -> int:
    """Return the rows of keys in the joined projection of a layer, whose path holds its number."""
    layer = next(int(name.removeprefix("layers.")) for name in path.split("/") if name.startswith("layers."))
    shape = spec.kv_shape_of(layer)
    assert shape is not None
    return shape[0] * shape[1]


def pieces_of(parts: Sequence[Part], widths: Widths, stored: Mapping[Bits, QuantizedMatrix]) -> list[QuantizedMatrix]:
    """Return the whole matrix if all parts have one width, else its parts; `stored` holds it in each width needed."""
    if len(stored) == 1:
        return list(stored.values())
    return [stored[widths[part.name]].rows(part.rows) for part in parts]

"""Fitted matrices on disk: each in every width of the scheme, and the errors from which the schemes choose."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from quantize.graph.codec import KERNEL_BITS, Bits, QuantizedMatrix, from_planes

Errors = dict[str, dict[str, float]]  # by the parts' names, and "int4", "int5", ...

_ERRORS_NAME = "errors.json"


@dataclass(frozen=True, slots=True)
class PartErrors:
    """The squared error of a part's outputs, summed over the calibration text, by width.

    The head's is that of its weights, since only shares are compared.
    """

    by_width: Mapping[Bits, float]

    @property
    def narrowest(self) -> Bits:
        """The fewest bits that the part can have."""
        return min(self.by_width)

    def share(self, bits: Bits) -> float:
        """Return the share of the narrowest width's error that this width leaves."""
        most = self.by_width[self.narrowest]
        return min(1.0, self.by_width[bits] / most) if most > 0 else 1.0


def save_fitted(target: Path, matrix: str, stored: QuantizedMatrix) -> None:
    """Write one matrix, its codes packed as the bundle will hold them."""
    path = target / _file_name(matrix, stored.bits)
    planes = [stored.packed().reshape(stored.num_outputs, -1)] if stored.bits in KERNEL_BITS else stored.planes()
    kept: dict[str, Any] = {f"plane_{index}": plane for index, plane in enumerate(planes)}
    np.savez(path, num_inputs=stored.num_inputs, steps=stored.steps, units=stored.units, **kept)


def load_fitted(folder: Path, matrix: str, bits: Bits) -> QuantizedMatrix:
    """Read one fitted matrix."""
    with np.load(folder / _file_name(matrix, bits)) as arrays:
        num_inputs, packed = int(arrays["num_inputs"]), arrays["plane_0"]
        steps, units = arrays["steps"], arrays["units"]
        codes = packed if bits in KERNEL_BITS else from_planes(packed, arrays["plane_1"], bits)
    if bits == 4:
        codes = np.empty((len(packed), 2 * packed.shape[1]), np.uint8)
        codes[:, 0::2], codes[:, 1::2] = packed & 15, packed >> 4
    return QuantizedMatrix(bits, num_inputs, codes, steps, units)


def save_errors(folder: Path, errors: Mapping[str, Mapping[str, float]]) -> None:
    """Write the errors by the parts' names and "int4", "int5", ..."""
    (folder / _ERRORS_NAME).write_text(json.dumps(errors, sort_keys=True))


def load_errors(folder: Path) -> dict[str, PartErrors]:
    """Read the errors by the parts' names."""
    raw: dict[str, dict[str, float]] = json.loads((folder / _ERRORS_NAME).read_text())
    known: tuple[Bits, ...] = get_args(Bits)
    return {
        name: PartErrors({bits: errors[f"int{bits}"] for bits in known if f"int{bits}" in errors})
        for name, errors in raw.items()
    }


def _file_name(matrix: str, bits: Bits) -> str:
    return f"{matrix.replace('/', '.')}.int{bits}.npz"

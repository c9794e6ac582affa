"""Checkpoints whose weights are quantized already: FP8 with its scales is read back, every other kind is refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from appliance.errors import QuantizeError
from quantize.sources.fields import shown
from quantize.sources.tensors import Tensor

_NAMES = {
    "gptq": "GPTQ",
    "awq": "AWQ",
    "bitsandbytes": "bitsandbytes",
    "bitnet": "BitNet",
    "hqq": "HQQ",
    "aqlm": "AQLM",
    "quanto": "Quanto",
    "torchao": "torchao",
    "mxfp4": "MXFP4",
    "eetq": "EETQ",
    "fbgemm_fp8": "FBGEMM",
    "compressed-tensors": "compressed-tensors",
}
SCALES = (".weight_scale_inv", ".weight_scale")
ACTIVATION_SCALES = (".activation_scale", ".input_scale")


@dataclass(frozen=True, slots=True)
class Fp8:
    """FP8 weights: a scale for each block of (rows, columns), or one for the whole matrix."""

    block: tuple[int, int] | None


def read_quantization(raw: dict[str, Any]) -> Fp8 | None:
    """Take quantization_config out of a configuration.

    Raises:
        QuantizeError: the weights are quantized in another way than FP8.
    """
    found = raw.pop("quantization_config", None)
    if raw.get("compression_config"):
        raise QuantizeError("config.json has compression_config: the weights are compressed; give the original ones")
    if found is None:
        return None
    if not isinstance(found, dict):
        raise QuantizeError(f"quantization_config in config.json is {shown(found)}; an object is needed")
    method = str(found.get("quant_method") or ("bitsandbytes" if _is_bitsandbytes(found) else None))
    if method == "fp8":
        return Fp8(_block(found.get("weight_block_size")))
    name = _NAMES.get(method, repr(method))
    raise QuantizeError(
        f"the weights are quantized by {name} (quantization_config in config.json), so that nothing is left to measure "
        "against; give the checkpoint that they were made from"
    )


def _is_bitsandbytes(found: Mapping[str, Any]) -> bool:
    return any(found.get(name) for name in ("load_in_4bit", "load_in_8bit", "_load_in_4bit", "_load_in_8bit"))


def _block(value: object) -> tuple[int, int] | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 2 or not all(type(n) is int and n > 0 for n in value):
        raise QuantizeError(
            f"weight_block_size in quantization_config is {shown(value)}; two positive numbers are needed"
        )
    return value[0], value[1]


def check_scale(weight: Tensor, scale: Tensor, block: tuple[int, int] | None) -> None:
    """Refuse a scale that does not fit its weight.

    Raises:
        QuantizeError: of another shape or type.
    """
    rows, columns = weight.shape
    fitting = {(), (1,), (1, 1)} if block is None else {(-(-rows // block[0]), -(-columns // block[1]))}
    if block is None:
        fitting |= {(rows,), (rows, 1)}
    if scale.shape not in fitting or scale.dtype not in ("F32", "BF16", "F16"):
        raise QuantizeError(
            f"{scale.name} has the shape {list(scale.shape)} as {scale.dtype}, which does not fit {weight.name}"
        )


def dequantized(weight: Tensor, scale: Tensor, block: tuple[int, int] | None) -> NDArray[np.float32]:
    """Return the weights times their scales, both as float32."""
    values, factors = np.asarray(weight.load(), np.float32), np.asarray(scale.load(), np.float32)
    if block is not None:
        factors = factors.repeat(block[0], axis=0)[: weight.shape[0]].repeat(block[1], axis=1)[:, : weight.shape[1]]
    elif factors.size > 1:
        factors = factors.reshape(-1, 1)
    return np.asarray(values * factors, np.float32)


@dataclass(frozen=True, slots=True)
class ScaledTensor:
    """An FP8 weight with its scale, read as float32."""

    stored: Tensor
    scale: Tensor
    block: tuple[int, int] | None

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return self.stored.shape

    def slabs(self, num_rows: int) -> Iterator[NDArray[np.float32]]:
        """Return all rows at once: those of a block share their scale."""
        yield dequantized(self.stored, self.scale, self.block)

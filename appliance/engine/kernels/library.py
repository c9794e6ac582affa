"""The library of kernels: finding it, loading it, registering it with a session, packing weights for it."""

from __future__ import annotations

import ctypes
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from appliance.errors import LanternError

DOMAIN: Final = "lantern"
OPERATOR: Final = "MatMulBlocks"
_ALIGNMENT: Final = 64
LIBRARY: Final = Path(__file__).parent / "build" / "liblantern_kernels.so"


class KernelLibraryError(LanternError):
    """The library of kernels is absent, or this processor or onnxruntime cannot use it; the stock operators serve."""


class KernelLibraryAbsentError(KernelLibraryError):
    """No library was built for this installation."""


@dataclass(frozen=True, slots=True)
class StoredWeights:
    """Weights in the layout of MatMulNBits.

    `codes`: uint8 (N, blocks, block * bits / 8); `scales`: float32 (N, blocks); `zeros`: uint8 (N, blocks * bits / 8,
    rounded up), or None for the middle of the codes' range.
    """

    codes: NDArray[np.uint8]
    scales: NDArray[np.float32]
    zeros: NDArray[np.uint8] | None
    num_columns: int  # K
    bits: int


@dataclass(frozen=True, slots=True)
class PackedWeights:
    """Weights in the order in which the kernels read them: uint8 (bytes,), with the bits of a code in it.

    These are 5 or 6 where the lower 3 or 2 bits of all codes of 8 bits are empty.
    """

    memory: NDArray[np.uint8]
    bits: int


@dataclass(frozen=True, slots=True)
class KernelLibrary:
    """A loaded library; `family` names the kernels that this processor takes, the fastest that it supports."""

    path: Path
    family: str
    _functions: ctypes.CDLL = field(repr=False)

    def register(self, options: ort.SessionOptions) -> None:
        """Let sessions with these options run the operator."""
        register_kernels(self.path, options)

    def pack(self, weights: StoredWeights) -> PackedWeights:
        """Return the weights as the kernels read them: the second input, and the bits, of an operator with packed = 1.

        The layout is the same for every processor. Map it at a multiple of 64 bytes, else the operator copies it.

        Raises:
            KernelLibraryError: a scale is not finite.
        """
        codes, scales = np.ascontiguousarray(weights.codes, np.uint8), np.ascontiguousarray(weights.scales, np.float32)
        zeros = None if weights.zeros is None else np.ascontiguousarray(weights.zeros, np.uint8)
        _check(weights, codes, scales, zeros)
        rows, _, block_bytes = codes.shape
        zeros_address = None if zeros is None else zeros.ctypes.data
        shape = (rows, weights.num_columns, weights.bits, block_bytes * 8 // weights.bits)
        bits = int(self._functions.lantern_packed_bits(*shape, codes.ctypes.data, zeros_address))
        size = int(self._functions.lantern_packed_size(*shape, bits, scales.ctypes.data, zeros_address))
        memory = np.empty(size + _ALIGNMENT, np.uint8)
        begin = -memory.ctypes.data % _ALIGNMENT
        packed = memory[begin : begin + size]
        if not self._functions.lantern_pack(
            *shape, bits, codes.ctypes.data, scales.ctypes.data, zeros_address, packed.ctypes.data
        ):
            raise KernelLibraryError("A scale of the weights is not finite; build the bundle again")
        return PackedWeights(packed, bits)


def library_version(path: Path = LIBRARY) -> str:
    """Return the hash of the library that `make kernels` built, compared with the hash that was written then.

    The library is not loaded.

    Raises:
        KernelLibraryAbsentError: there is none.
        KernelLibraryError: it is not the file that was built.
    """
    if not path.is_file():
        raise KernelLibraryAbsentError(f"No library of kernels at {path}; build it with: make kernels")
    try:
        built = path.with_name(f"{path.name}.sha256").read_text("ascii").split()[:1]
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except (OSError, ValueError) as err:
        raise KernelLibraryError(f"The library of kernels at {path} cannot be verified: {err}") from err
    if built != [found]:
        raise KernelLibraryError(f"The library of kernels at {path} was changed since it was built")
    return found


def load_kernels(path: Path = LIBRARY) -> KernelLibrary:
    """Load the library that `make kernels` built.

    Raises:
        KernelLibraryError: it is absent, was changed, does not load here, or asks for a newer onnxruntime.
    """
    library_version(path)
    try:
        functions = ctypes.CDLL(str(path))
        _declare(functions)
    except (OSError, AttributeError) as err:
        raise KernelLibraryError(f"The library of kernels at {path} does not load: {err}") from err
    wanted, known = int(functions.lantern_api_version()), _api_version()
    if wanted > known:
        raise KernelLibraryError(f"The library of kernels needs onnxruntime 1.{wanted}, this is {ort.__version__}")
    return KernelLibrary(path, functions.lantern_family().decode(), functions)


def register_kernels(path: Path, options: ort.SessionOptions) -> None:
    """Let sessions with these options run the operator of the library at `path`."""
    options.register_custom_ops_library(str(path))


def _api_version() -> int:
    """Return the C API version of the installed onnxruntime, which is its minor version."""
    return int(ort.__version__.split(".")[1])


def _declare(functions: ctypes.CDLL) -> None:
    shape = [ctypes.c_size_t, ctypes.c_size_t, ctypes.c_uint, ctypes.c_uint]
    functions.lantern_api_version.restype = ctypes.c_uint
    functions.lantern_family.restype = ctypes.c_char_p
    functions.lantern_packed_bits.argtypes = [*shape, *[ctypes.c_void_p] * 2]
    functions.lantern_packed_bits.restype = ctypes.c_uint
    functions.lantern_packed_size.argtypes = [*shape, ctypes.c_uint, *[ctypes.c_void_p] * 2]
    functions.lantern_packed_size.restype = ctypes.c_size_t
    functions.lantern_pack.argtypes = [*shape, ctypes.c_uint, *[ctypes.c_void_p] * 4]
    functions.lantern_pack.restype = ctypes.c_int


def _check(
    weights: StoredWeights, codes: NDArray[np.uint8], scales: NDArray[np.float32], zeros: NDArray[np.uint8] | None
) -> None:
    """Refuse arrays whose sizes contradict each other: the library reads them by size alone."""
    rows, num_blocks, block_bytes = codes.shape
    block = block_bytes * 8 // weights.bits
    if weights.bits not in (4, 8) or block not in (32, 64, 128):
        raise KernelLibraryError(f"No kernel has {weights.bits} bits in blocks of {block}")
    zeros_size = rows * ((num_blocks * weights.bits + 7) // 8)
    sizes_fit = (
        num_blocks == -(-weights.num_columns // block)
        and scales.size == rows * num_blocks
        and (zeros is None or zeros.size == zeros_size)
    )
    if not sizes_fit:
        raise KernelLibraryError(f"Weights of {rows} x {weights.num_columns} do not fit their {codes.shape} codes")

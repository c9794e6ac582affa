"""Products of quantized weights by kernels of our own: a custom-operator library for onnxruntime.

`docs/kernels.md` tells how it is built and which bits it computes. Without the library the stock operators serve.
"""

from appliance.engine.kernels.library import (
    DOMAIN,
    LIBRARY,
    OPERATOR,
    KernelLibrary,
    KernelLibraryAbsentError,
    KernelLibraryError,
    PackedWeights,
    StoredWeights,
    library_version,
    load_kernels,
    register_kernels,
)

__all__ = [
    "DOMAIN",
    "LIBRARY",
    "OPERATOR",
    "KernelLibrary",
    "KernelLibraryAbsentError",
    "KernelLibraryError",
    "PackedWeights",
    "StoredWeights",
    "library_version",
    "load_kernels",
    "register_kernels",
]

"""A trial of the library of kernels, for a process of its own: prints the family that this processor takes.

Run as `python -m appliance.engine.kernels [LIBRARY]`; it fails, with the reason, if the library cannot be used here.
"""

from __future__ import annotations

import sys
from pathlib import Path

from appliance.engine.kernels import LIBRARY, KernelLibraryError, load_kernels

if __name__ == "__main__":
    try:
        print(load_kernels(Path(sys.argv[1]) if sys.argv[1:] else LIBRARY).family)  # noqa: T201
    except KernelLibraryError as err:
        sys.exit(err.message)

"""The bits of a row where onnxruntime multiplies int4 weights: not every processor keeps them beside other rows.

On x86 with AVX2 and no VNNI they differ between one row and several (onnxruntime 1.32). Lantern's own kernels keep them
everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from appliance.engine.runtime.product import int4_rows_are_equal

NOT_EQUAL = "the stock products of int4 weights depend on the number of rows on this processor"


def assert_same_arrays(found: Mapping[str, NDArray[Any]] | None, wanted: Mapping[str, NDArray[Any]] | None) -> None:
    """Compare what steps of one row have left with what steps of several have: bits, where the processor keeps them."""
    assert found is not None
    assert wanted is not None
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        most = 0 if int4_rows_are_equal() else 1 if value.dtype == np.int8 else 1e-3
        assert np.abs(found[key].astype(np.float32) - value.astype(np.float32)).max() <= most, key

"""A decoder that is loaded to say something at length: its float form, or int8 where that is too large.

Weights that are not in memory would be read from the disk for each token.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from quantize.graph.codec import round_to_nearest
from quantize.graph.factors import Factors
from quantize.graph.files import save_graph
from quantize.needs import MOST_FLOAT_BYTES
from quantize.precision.matrices import quantize_graph


@contextmanager
def loadable_form(fused: Path, scratch: Path) -> Iterator[Path]:
    """Give the folder of a float decoder or, if it is large, of its int8 form, which is in `scratch` meanwhile.

    The size alone decides, so that the calibration text does not depend on the memory of a machine.
    """
    if sum(path.stat().st_size for path in fused.iterdir()) <= MOST_FLOAT_BYTES:
        yield fused
        return
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        model = Factors().load_graph(fused)
        shared = quantize_graph(model, lambda matrix: [round_to_nearest(matrix.weight(), 8)])
        save_graph(model, Path(name), shared)
        del model
        yield Path(name)

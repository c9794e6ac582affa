"""The evidence that a build's float model is the published one, and the doubts that stop the build."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from appliance.bundle.manifest import Witness
from appliance.errors import QuantizeError

TOLERANCE = 0.01  # largest difference from transformers' outputs, relative to their spread; float32 gives 1e-5 to 1e-3
_FAR_RATIO = 1.25  # of the perplexity far from a text's start and near it, over the same tokens; a whole model has < 1
_BETTER_THAN_COUNTS = 1.2  # times; MiniLM finds 2.5 times as many, the same with random weights 0.9 times
_LARGEST = 1e30  # stands for infinity and NaN, which a manifest cannot hold
_NAME = "witness.json"


def save_witness(folder: Path, witness: Witness) -> None:
    """Write what was found into the stage's folder."""
    (folder / _NAME).write_text(witness.model_dump_json())


def load_witness(folder: Path) -> Witness:
    """Read what `save_witness` wrote."""
    return Witness.model_validate_json((folder / _NAME).read_bytes())


def check_witness(found: Witness, *, overrule: bool) -> Witness:
    """Return the evidence, marked if its doubts were overruled.

    Raises:
        QuantizeError: the float model is in doubt, and that is not overruled.
    """
    clauses = doubts(found)
    if clauses and not overrule:
        raise QuantizeError(
            f"the float model is not what was published: {'; '.join(clauses)}; --force builds it anyway"
        )
    return found.model_copy(update={"overruled": bool(clauses)})


def doubts(found: Witness) -> list[str]:
    """Return a clause for each figure that a whole model does not have."""
    clauses = []
    if found.difference is not None and not found.difference <= TOLERANCE:
        clauses.append(
            f"its outputs differ from those of transformers by {found.difference:g} of their spread, and {TOLERANCE:g} "
            "is allowed"
        )
    near, far = found.figures.get("perplexity_near"), found.figures.get("perplexity_far")
    least = found.figures.get("perplexity_of_frequencies")
    if near is not None and least is not None and not near <= least:
        clauses.append(
            f"its perplexity on ordinary text is {near:,.0f}, which is worse than the frequencies of that text's "
            f"tokens ({least:,.0f}), as if weights were random"
        )
    elif near is not None and far is not None and not far <= _FAR_RATIO * near:
        clauses.append(
            f"its perplexity is {far:,.0f} after 1,024 tokens and {near:,.0f} after 128 of them, as if positions were "
            "not those of its training"
        )
    own, counts = found.figures.get("own_found"), found.figures.get("own_found_by_counts")
    if own is not None and counts is not None and not own >= _BETTER_THAN_COUNTS * counts:
        clauses.append(
            f"it finds {own:.0%} of the passages that belong together, and counting their tokens finds {counts:.0%}, "
            "as if weights were random"
        )
    return clauses


def rounded_up(difference: float) -> float:
    """Return the next power of ten, so that a manifest does not depend on the order in which a processor adds."""
    if difference == 0:
        return 0.0
    return float(f"1e{math.ceil(math.log10(difference))}") if difference < _LARGEST else _LARGEST


def check_finite(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the float model's outputs.

    Raises:
        QuantizeError: there are none, because its weights are damaged.
    """
    if not np.isfinite(values).all():
        raise QuantizeError(
            "the float model computes values that are not finite (NaN) on ordinary text; copy the checkpoint again"
        )
    return values

"""Counts of work that do not depend on the machine's load: a test of growth compares counts, not times."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import ParamSpec

P = ParamSpec("P")


def count_calls(run: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> int:
    """Return how many functions, Python's and C's, `run` calls on this thread."""
    num_calls = 0

    def count(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal num_calls
        num_calls += event in {"call", "c_call"}

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        run(*args, **kwargs)
    finally:
        sys.setprofile(before)
    return num_calls

"""The boards that a bundle can be built for: their arithmetic, and the figures that count for them."""

from __future__ import annotations

import pytest

from appliance.bundle.targets import (
    Arithmetic,
    arithmetics_of,
    hardest_of,
    is_built_for,
    kl_here,
    stock_arithmetic,
    target_metrics,
)
from appliance.host.processor import ProcessorKind

_METRICS = {"kl_mean": 0.03, "kl_mean_blocks": 0.03, "kl_mean_rows": 0.04, "kl_mean_floats": 0.02}


@pytest.mark.parametrize(
    ("target", "arithmetics", "hardest"),
    [
        ("any", ("blocks", "rows", "floats"), "rows"),
        ("x86", ("blocks",), "blocks"),
        ("pi5", ("blocks", "rows"), "rows"),
        ("orin", ("blocks", "rows"), "rows"),
        ("pi4", ("blocks", "floats"), "blocks"),
        ("of-a-later-version", ("blocks", "rows", "floats"), "rows"),
    ],
)
def test_a_target_has_the_arithmetic_of_its_boards(
    target: str, arithmetics: tuple[Arithmetic, ...], hardest: Arithmetic
) -> None:
    assert arithmetics_of(target) == arithmetics
    assert hardest_of(target) == hardest


@pytest.mark.parametrize(
    ("target", "kind", "fits"),
    [
        ("any", "neon", True),
        ("pi5", "dotprod", True),
        ("pi5", "i8mm", True),  # the same rounding, and faster
        ("pi5", "neon", False),
        ("pi5", "x86", False),
        ("orin", "dotprod", True),
        ("pi4", "dotprod", False),
        ("x86", "x86", True),
        ("x86", "other", True),
    ],
)
def test_a_bundle_tells_on_which_processors_it_is_at_home(target: str, kind: ProcessorKind, fits: bool) -> None:
    assert is_built_for(target, kind) is fits


def test_the_figures_of_a_target_are_those_of_its_arithmetic() -> None:
    assert target_metrics(_METRICS, "kl_mean", "x86") == {"kl_mean_blocks": 0.03}
    assert target_metrics(_METRICS, "kl_mean", "pi5") == {"kl_mean_blocks": 0.03, "kl_mean_rows": 0.04}
    assert target_metrics({"kl_mean": 0.05}, "kl_mean", "pi5") == {"kl_mean": 0.05}
    assert target_metrics({"cosine_mean": 1.0}, "kl_mean", "any") == {}


def test_the_figure_here_is_the_worst_that_this_processor_may_compute_with() -> None:
    assert kl_here(_METRICS, "dotprod") == 0.04
    assert kl_here(_METRICS, "neon") == 0.03
    assert kl_here({"kl_mean": 0.05}, "dotprod") == 0.05
    assert kl_here(_METRICS, "other") == 0.03
    assert kl_here({"cosine_mean": 1.0}, "x86") is None


def test_stock_operators_round_by_the_processor() -> None:
    kinds: tuple[ProcessorKind, ...] = ("x86", "neon", "dotprod", "i8mm", "other")
    assert [stock_arithmetic(kind) for kind in kinds] == ["blocks", "floats", "rows", "rows", None]

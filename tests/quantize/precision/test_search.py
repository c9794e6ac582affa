"""The search takes first what gains most a byte, and stops at the target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from quantize.precision.fit import PartErrors
from quantize.precision.parts import Part
from quantize.precision.search import Order, best_within, smallest_within

_PARTS = tuple(Part(f"layers.{i}/mlp/up_proj", f"layers.{i}/mlp/up_proj", 0, 32, 64) for i in range(20))
_BASE_BYTES = 100_000


def order() -> Order:
    sensitivity = {part.name: 0.001 * (index + 1) for index, part in enumerate(_PARTS)}
    return Order.create(_PARTS, sensitivity, {part.name: PartErrors(1.0, 0.01) for part in _PARTS})


class Measured:
    """Answers as a build would: the KL of what is left in int4, twice what the order predicts."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __call__(self, int8: Sequence[str]) -> tuple[int, Mapping[str, float]]:
        self.asked.append(len(int8))
        names = order().names(len(_PARTS))
        left = sum(0.001 * (_index(name) + 1) for name in names if name not in int8)
        size_bytes = _BASE_BYTES + order().extra_bytes(len(int8))
        return size_bytes, {"kl_mean": 2 * left + 0.001, "top1_agreement": 0.9}


def test_what_gains_most_a_byte_comes_first() -> None:
    assert order().names(2) == ["layers.19/mlp/up_proj", "layers.18/mlp/up_proj"]


def test_a_part_that_costs_more_bytes_comes_later() -> None:
    wide = Part("wide", "wide", 0, 320, 64)
    found = Order.create(
        [wide, _PARTS[0]], {"wide": 0.01, _PARTS[0].name: 0.005}, dict.fromkeys(("wide", _PARTS[0].name), _errors())
    )
    assert found.names(1) == [_PARTS[0].name]


@pytest.mark.parametrize("max_kl", [0.4, 0.1, 0.05, 0.01])
def test_the_smallest_file_within_the_target_is_found_in_few_tries(max_kl: float) -> None:
    measured = Measured()
    chosen = smallest_within(order(), max_kl, measured, lambda _: None)[-1]
    assert chosen.kl_mean <= max_kl
    assert len(measured.asked) <= 8
    one_less = measured(order().names(chosen.num_int8 - 1))[1]["kl_mean"]
    assert one_less > max_kl or chosen.kl_mean >= 0.97 * max_kl


def test_int4_throughout_is_taken_where_it_is_good_enough() -> None:
    assert smallest_within(order(), 1.0, Measured(), lambda _: None)[-1].num_int8 == 0


def test_int8_throughout_is_the_last_resort() -> None:
    assert smallest_within(order(), 1e-6, Measured(), lambda _: None)[-1].num_int8 == len(_PARTS)


@pytest.mark.parametrize("num_parts", [0, 7, 20])
def test_the_largest_allocation_that_fits_is_found(num_parts: int) -> None:
    limit = _BASE_BYTES + order().extra_bytes(num_parts) + 10
    chosen = best_within(order(), limit, Measured(), lambda _: None)[-1]
    assert chosen.num_int8 == num_parts
    assert chosen.size_bytes <= limit


def test_a_limit_below_int4_gives_int4() -> None:
    assert best_within(order(), 10, Measured(), lambda _: None)[-1].num_int8 == 0


def _errors() -> PartErrors:
    return PartErrors(1.0, 0.01)


def _index(name: str) -> int:
    return int(name.split("/")[0].removeprefix("layers."))

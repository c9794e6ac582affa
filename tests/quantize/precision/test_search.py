"""The search first takes the steps that gain most a byte, and stops at the target."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from appliance.errors import QuantizeError
from quantize.precision.fitted import PartErrors
from quantize.precision.parts import Part, Widths
from quantize.precision.search import Order, best_within, smallest_within
from quantize.progress import SILENT

_PARTS = tuple(Part(f"layers.{i}/mlp/up_proj", f"layers.{i}/mlp/up_proj", 0, 32, 64) for i in range(20))
_BASE_BYTES = 100_000


def order() -> Order:
    sensitivity = {part.name: 0.001 * (index + 1) for index, part in enumerate(_PARTS)}
    return Order.create(_PARTS, sensitivity, {part.name: PartErrors({4: 1.0, 8: 0.01}) for part in _PARTS})


class Measured:
    """A measurement like a build's: the KL of the parts left in int4, twice the one that the order predicts."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __call__(self, widths: Widths) -> tuple[int, Mapping[str, float]]:
        int8 = [name for name, bits in widths.items() if bits == 8]
        self.asked.append(len(int8))
        left = sum(0.001 * (_index(name) + 1) for name in widths if name not in int8)
        size_bytes = _BASE_BYTES + order().extra_bytes(len(int8))
        return size_bytes, {"kl_mean": 2 * left + 0.001, "top1_agreement": 0.9}


def test_what_gains_most_a_byte_comes_first() -> None:
    assert _int8(order(), 2) == {"layers.19/mlp/up_proj", "layers.18/mlp/up_proj"}


def test_a_part_that_costs_more_bytes_comes_later() -> None:
    wide = Part("wide", "wide", 0, 320, 64)
    found = Order.create(
        [wide, _PARTS[0]], {"wide": 0.01, _PARTS[0].name: 0.005}, dict.fromkeys(("wide", _PARTS[0].name), _errors())
    )
    assert _int8(found, 1) == {_PARTS[0].name}


def test_each_part_widens_in_steps_that_gain_ever_less_a_byte() -> None:
    errors = {part.name: PartErrors({4: 1.0, 5: 0.25, 6: 0.06, 8: 0.01}) for part in _PARTS}
    found = Order.create(_PARTS, {part.name: 0.001 for part in _PARTS}, errors)
    assert [step.bits for step in found.steps] == [5] * 20 + [6] * 20 + [8] * 20
    assert set(found.widths(30).values()) == {5, 6}
    whole = sum(part.size_bytes(8) - part.size_bytes(4) for part in _PARTS)
    assert found.extra_bytes(len(found.steps)) == whole
    assert found.predicted(len(found.steps)) == pytest.approx(20 * 0.001 * 0.01)


def test_a_width_that_saves_less_than_the_one_beyond_it_is_stepped_over() -> None:
    errors = {_PARTS[0].name: PartErrors({4: 1.0, 5: 0.9, 6: 0.3, 8: 0.2})}
    found = Order.create(_PARTS[:1], {_PARTS[0].name: 0.001}, errors)
    assert [step.bits for step in found.steps] == [6, 8]


def test_what_is_multiplied_at_once_keeps_one_width() -> None:
    parts = [
        Part(f"layers.0/mlp/{name}_proj", "layers.0/mlp/gate_up_proj", at, at + 32, 64)
        for at, name in ((0, "gate"), (32, "up"))
    ]
    found = Order.create(parts, {parts[0].name: 0.01, parts[1].name: 0.001}, {part.name: _errors() for part in parts})
    assert [step.names for step in found.steps] == [tuple(part.name for part in parts)]
    assert found.steps[0].gain == pytest.approx(0.011 * 0.99)


@pytest.mark.parametrize("max_kl", [0.4, 0.1, 0.05, 0.01])
def test_the_smallest_file_within_the_target_is_found_in_few_tries(max_kl: float) -> None:
    measured = Measured()
    chosen = smallest_within(order(), max_kl, measured, SILENT)[-1]
    assert chosen.kl_mean <= max_kl
    assert len(measured.asked) <= 8
    one_less = measured(order().widths(chosen.num_steps - 1))[1]["kl_mean"]
    assert one_less > max_kl or chosen.kl_mean >= 0.97 * max_kl


def test_int4_throughout_is_taken_where_it_is_good_enough() -> None:
    assert smallest_within(order(), 1.0, Measured(), SILENT)[-1].num_steps == 0


def test_int8_throughout_is_the_last_resort() -> None:
    assert smallest_within(order(), 1e-6, Measured(), SILENT)[-1].num_steps == len(_PARTS)


@pytest.mark.parametrize("num_parts", [0, 7, 20])
def test_the_largest_allocation_that_fits_is_found(num_parts: int) -> None:
    limit = _BASE_BYTES + order().extra_bytes(num_parts) + 10
    chosen = best_within(order(), limit, Measured(), SILENT)[1][-1]
    assert chosen.num_steps == num_parts
    assert chosen.size_bytes <= limit


def test_a_limit_below_int4_is_refused_with_the_size_of_int4() -> None:
    with pytest.raises(QuantizeError, match=r"the smallest file has 0\.1 MB"):
        best_within(order(), _BASE_BYTES - 1, Measured(), SILENT)


def test_what_is_too_large_for_the_rest_makes_room_for_what_comes_after_it() -> None:
    small, head = _PARTS[:2], Part("head", "head", 0, 3200, 64)
    errors = {part.name: PartErrors({4: 1.0, 6: 0.1, 8: 0.01}) for part in (*small, head)}
    found = Order.create([*small, head], {small[0].name: 0.001, small[1].name: 0.001, "head": 10.0}, errors)
    assert found.steps[0].names == ("head",)

    def measure(widths: Widths) -> tuple[int, Mapping[str, float]]:
        narrow = [part for part in (*small, head) if widths[part.name] == 4]
        extra = sum(part.size_bytes(widths[part.name]) - part.size_bytes(4) for part in (*small, head))
        return _BASE_BYTES + extra, {"kl_mean": 0.01 * (len(narrow) + 1), "top1_agreement": 0.9}

    limit = _BASE_BYTES + sum(part.size_bytes(8) - part.size_bytes(4) for part in small)
    filled, tries = best_within(found, limit, measure, SILENT)
    assert tries[-1].size_bytes == limit
    assert filled.widths(tries[-1].num_steps) == {small[0].name: 8, small[1].name: 8, "head": 4}
    # A later step of what did not fit would skip the one before it.
    assert [step.bits for step in filled.steps if step.names == ("head",)] == [6, 8]


def _errors() -> PartErrors:
    return PartErrors({4: 1.0, 8: 0.01})


def _int8(found: Order, num_steps: int) -> set[str]:
    return {name for name, bits in found.widths(num_steps).items() if bits == 8}


def _index(name: str) -> int:
    return int(name.split("/")[0].removeprefix("layers."))

"""The widths that a recipe's patterns give."""

from __future__ import annotations

from quantize.precision.mixed import widths_by_pattern
from quantize.precision.parts import Part, Patterns

_NAMES = [f"layers.{layer}/self_attn/{letter}_proj" for layer in (0, 1) for letter in "qkvo"]


def _parts(names: list[str]) -> list[Part]:
    return [Part(name, name, 0, 32, 64) for name in names]


def test_each_part_gets_the_largest_width_of_which_a_pattern_names_it() -> None:
    patterns: Patterns = {5: ["*/self_attn/*"], 6: ["*/[qk]_proj"], 8: ["layers.1/*/q_proj"]}
    widths = widths_by_pattern(_parts([*_NAMES, "layers.0/mlp/up_proj"]), patterns)
    assert list(widths.values()) == [6, 6, 5, 5, 8, 6, 5, 5, 4]


def test_gates_have_int8_whatever_names_them() -> None:
    names = ["layers.0/mlp/gate", "layers.0/self_attn/gate_proj"]
    assert set(widths_by_pattern(_parts(names), {5: ["*"]}).values()) == {8}
    assert set(widths_by_pattern(_parts(names), {}).values()) == {8}

"""Recipes are read strictly, and the shipped ones are valid."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.errors import QuantizeError
from quantize.recipe import RECIPES, STARTER_NAMES, GatesPart, Recipe, shipped_recipe
from quantize.run import failed_gates, input_sha256


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_a_shipped_recipe_is_valid_says_why_and_pins_what_it_downloads_from_an_index(path: Path) -> None:
    recipe = Recipe.load(path)
    assert recipe.name == path.stem
    assert recipe.why.endswith(".")
    assert recipe.source.sha256 is not None or not recipe.source.uri.startswith("pypi:")
    assert recipe.license is not None


def test_both_starters_are_shipped() -> None:
    assert [shipped_recipe(name).name for name in STARTER_NAMES] == list(STARTER_NAMES)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name = ", "not a TOML file"),
        ("name = 'x'", "source in r.toml"),
        ("name = 'X Y'\n[source]\nuri = 'a/b'", "name in r.toml"),
        ("name = 'x'\n[source]\nuri = 'a/b'\n[weights]\nscheme = 'int3'", r"weights.scheme in r.toml"),
        ("name = 'x'\nbits = 3\n[source]\nuri = 'a/b'", "bits in r.toml"),
    ],
)
def test_a_recipe_that_is_not_valid_names_the_field(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(QuantizeError, match=said):
        Recipe.load(tmp_path / "r.toml")


def test_an_absent_recipe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(QuantizeError, match="no recipe"):
        Recipe.load(tmp_path / "r.toml")


def test_the_input_hash_follows_recipe_and_checkpoint() -> None:
    recipe = shipped_recipe(STARTER_NAMES[0])
    other = recipe.model_copy(update={"context_length": 4096})
    hashes = {input_sha256(recipe, "0" * 64), input_sha256(other, "0" * 64), input_sha256(recipe, "1" * 64)}
    assert len(hashes) == 3
    assert input_sha256(recipe, "0" * 64) in hashes


def test_a_gate_that_is_missed_is_said_with_both_figures() -> None:
    gates = GatesPart(max_kl=0.05, min_top1=0.9, min_cosine=0.99)
    assert failed_gates(gates, {"kl_mean": 0.04, "top1_agreement": 0.95}) == []
    assert failed_gates(gates, {"kl_mean": 0.06}) == ["kl_mean is 0.06, at most 0.05 is allowed"]
    assert failed_gates(gates, {"cosine_min": 0.5}) == ["cosine_min is 0.5, at least 0.99 is needed"]
    assert failed_gates(gates, {"kl_mean": float("nan")}) == ["kl_mean is nan, at most 0.05 is allowed"]

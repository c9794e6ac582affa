"""Recipes are read strictly, and the shipped ones are valid."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from appliance.errors import QuantizeError
from quantize.build import input_sha256
from quantize.evaluation.metrics import failed_gates
from quantize.kinds import KINDS
from quantize.recipe import RECIPES, STARTER_NAMES, GatesPart, Recipe, WeightsPart, shipped_recipe


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


@pytest.mark.parametrize("part", [{"int5": ("*",)}, {"int6": ("*",)}, {"head": "int5"}])
@pytest.mark.parametrize("scheme", ["int8", "auto", "packed"])
def test_widths_that_the_scheme_does_not_take_are_refused(scheme: str, part: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="are for the scheme int4"):
        WeightsPart.model_validate({"scheme": scheme, **part})


def test_scoring_is_read_strictly_and_changes_the_identity() -> None:
    recipe = shipped_recipe("qwen3-reranker-0.6b")
    assert recipe.scoring is not None
    prompt = recipe.scoring.prompt
    assert prompt.before.endswith('"yes" or "no".<|im_end|>\n<|im_start|>user\n')
    assert prompt.after == "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    with pytest.raises(QuantizeError, match="'behind', which is not known"):
        recipe.changed({"scoring.prompt": {**prompt.model_dump(), "behind": "x"}})
    plain = recipe.model_copy(update={"scoring": None})
    kind = KINDS["reranker"]
    assert input_sha256(recipe, "0" * 64, kind) != input_sha256(plain, "0" * 64, kind)


def test_an_absent_recipe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(QuantizeError, match="no recipe"):
        Recipe.load(tmp_path / "r.toml")


def test_a_change_names_its_part_and_none_changes_nothing(tmp_path: Path) -> None:
    recipe = Recipe.create(name="x", source={"uri": "a/b"}, weights={"scheme": "auto", "max_kl": 0.1})
    changes = {"name": "y", "source.revision": "main", "weights.max_kl": None, "calibration.file": tmp_path / "own.txt"}
    changed = recipe.changed(changes)
    assert (changed.name, changed.source.uri, changed.source.revision) == ("y", "a/b", "main")
    assert (changed.weights.max_kl, changed.calibration.file) == (0.1, str(tmp_path / "own.txt"))
    assert recipe.changed({"weights.scheme": None}) == recipe


def test_a_scheme_without_a_search_drops_the_target_of_the_recipe() -> None:
    recipe = Recipe.create(name="x", source={"uri": "a/b"}, weights={"scheme": "auto", "max_kl": 0.1})
    assert recipe.changed({"weights.scheme": "packed"}).weights.max_kl == 0.1
    assert recipe.changed({"weights.scheme": "int4"}).weights.max_kl is None
    with pytest.raises(QuantizeError, match="max_kl and max_mb are for"):
        recipe.changed({"weights.scheme": "int4", "weights.max_mb": 5})


@pytest.mark.parametrize("kind", KINDS)
def test_the_input_hash_follows_recipe_and_checkpoint(kind: str) -> None:
    recipe = shipped_recipe(STARTER_NAMES[0])
    other = recipe.model_copy(update={"context_length": 4096})

    def of(changed: Recipe, source_sha256: str) -> str:
        return input_sha256(changed, source_sha256, KINDS[kind])

    hashes = {of(recipe, "0" * 64), of(other, "0" * 64), of(recipe, "1" * 64)}
    assert len(hashes) == 3
    assert of(recipe, "0" * 64) in hashes


def test_a_gate_that_is_missed_is_said_with_both_figures() -> None:
    gates = GatesPart(max_kl=0.05, min_top1=0.9, min_cosine=0.99)
    assert failed_gates(gates, {"kl_mean": 0.04, "top1_agreement": 0.95}) == []
    assert failed_gates(gates, {"kl_mean": 0.06}) == ["kl_mean is 0.06, at most 0.05 is allowed"]
    elsewhere = {"kl_mean": 0.04, "kl_mean_blocks": 0.04, "kl_mean_rows": 0.06, "kl_mean_floats": 0.03}
    assert failed_gates(gates, elsewhere) == ["kl_mean_rows is 0.06, at most 0.05 is allowed"]
    assert failed_gates(gates, elsewhere, "pi5") == ["kl_mean_rows is 0.06, at most 0.05 is allowed"]
    assert failed_gates(gates, elsewhere, "pi4") == failed_gates(gates, elsewhere, "x86") == []
    assert failed_gates(gates, {"cosine_min": 0.5}) == ["cosine_min is 0.5, at least 0.99 is needed"]
    assert failed_gates(gates, {"kl_mean": float("nan")}) == ["kl_mean is nan, at most 0.05 is allowed"]

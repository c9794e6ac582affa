"""A licence with terms of its own stops the build until it is accepted, and its text is part of the bundle."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.errors import QuantizeError
from quantize.licenses import check_accepted, license_of, license_text
from quantize.recipe import Recipe


@pytest.mark.parametrize("name", ["gemma", "llama3.2", "other", "cc-by-nc-4.0"])
def test_a_licence_with_terms_has_to_be_accepted(name: str) -> None:
    with pytest.raises(QuantizeError, match=f"licence '{name}', which has terms of its own: .* --accept-license"):
        check_accepted(recipe(), name, accepted=False)
    check_accepted(recipe(), name, accepted=True)


@pytest.mark.parametrize("name", ["Apache-2.0", "MIT", "unknown"])
def test_an_open_licence_asks_nothing(name: str) -> None:
    check_accepted(recipe(), name, accepted=False)


def test_the_recipes_word_comes_before_the_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\nlanguage: en\nlicense: mit\n---\nlicense: not this one\n")
    assert license_of(recipe(license="Apache-2.0"), tmp_path) == "Apache-2.0"
    assert license_of(recipe(), tmp_path) == "mit"
    (tmp_path / "README.md").write_text("license: not this one\n")
    assert license_of(recipe(), tmp_path) == "unknown"


def test_the_text_is_the_sources_then_the_checkpoints_then_the_standard_one(tmp_path: Path) -> None:
    assert license_text("no-such-licence", tmp_path, None) is None
    assert b"Apache License" in (license_text("apache-2.0", tmp_path, None) or b"")
    (tmp_path / "LICENSE.txt").write_text("beside the weights")
    assert license_text("apache-2.0", tmp_path, None) == b"beside the weights"
    (tmp_path / "TERMS").write_text("named")
    assert license_text("apache-2.0", tmp_path, tmp_path / "TERMS") == b"named"


def recipe(**fields: object) -> Recipe:
    return Recipe.create(name="x", source={"uri": "a/b"}, **fields)

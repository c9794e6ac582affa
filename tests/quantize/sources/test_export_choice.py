"""The way to the float graph follows the model and the memory, and an impossible wish is refused in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.errors import QuantizeError
from quantize.needs import Model, export_bytes
from quantize.recipe import ExportWay, Recipe
from quantize.sources.export_choice import ExportChoice, choose_export, with_export
from quantize.sources.inspection import inspect_source, model_of
from tests.quantize.tiny import write_decoder, write_encoder

_SMALL, _MEDIUM, _LARGE = 135_000_000, 500_000_000, 4_000_000_000


def a_model(num_parameters: int) -> Model:
    return Model([(num_parameters,)], {"model_type": "llama"}, is_decoder=True, is_rewritten=False)


@pytest.mark.parametrize(
    ("asked", "num_parameters", "way"),
    [
        ("auto", _SMALL, "optimum"),
        ("auto", _MEDIUM, "direct"),
        ("auto", _LARGE, "direct"),
        ("direct", _SMALL, "direct"),
        ("optimum", _LARGE, "optimum"),
    ],
)
def test_optimum_is_taken_where_it_fits_or_is_asked_for(asked: ExportWay, num_parameters: int, way: str) -> None:
    choice = choose_export(asked, a_model(num_parameters), free_bytes=8 * 10**9)
    assert choice.way == way


def test_the_reason_names_the_memory() -> None:
    needed = export_bytes(_LARGE)["optimum"] / 1e9
    plenty = choose_export("auto", a_model(_LARGE), free_bytes=10**12)
    assert plenty == ExportChoice("direct", f"optimum needs {needed:.1f} GB of memory, 4.0 GB are allowed unasked")
    short = choose_export("auto", a_model(_SMALL), free_bytes=10**9)
    assert short == ExportChoice("direct", "optimum needs 2.9 GB of memory, 1.0 GB are free")


def test_a_text_encoder_has_one_way_only(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path / "bert")
    model = model_of(folder)
    recipe = Recipe.create(name="bert", source={"uri": str(folder)})
    assert with_export(recipe, model)[0].export == "optimum"
    with pytest.raises(QuantizeError, match="--export direct is for models that write text"):
        with_export(recipe.model_copy(update={"export": "direct"}), model)


def test_inspect_says_which_way_a_build_takes_here(tmp_path: Path) -> None:
    found = inspect_source(write_decoder(tmp_path / "llama", "llama"))
    assert (found.export, found.export_memory_bytes) == ("optimum", export_bytes(found.num_parameters))
    assert inspect_source(write_encoder(tmp_path / "bert")).export is None

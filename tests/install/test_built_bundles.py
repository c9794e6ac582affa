"""Bundles of every kind that the workstation builds: a device tries and takes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.home import Home
from appliance.install.trial import Trial, TrialLimits
from quantize.build import build_to_folder
from quantize.progress import StageProgress
from quantize.recipe import Recipe
from tests.quantize.tiny import FORCED, write_encoder, write_reranker


@pytest.mark.parametrize(
    ("write", "architecture"),
    [
        (write_encoder, "mpnet"),
        (write_encoder, "nomic_bert"),
        (write_encoder, "modernbert"),
        (write_reranker, "bert"),
        (write_reranker, "xlm-roberta"),
        (write_reranker, "modernbert"),
    ],
)
def test_a_device_takes_what_was_built(write: Callable[[Path, str], Path], architecture: str, tmp_path: Path) -> None:
    checkpoint = write(tmp_path / "checkpoint", architecture)
    recipe = Recipe.create(name="tiny", source={"uri": str(checkpoint)})
    with StageProgress() as progress:
        bundle = build_to_folder(recipe, Home(tmp_path / "home"), tmp_path / "out", progress, FORCED)
    Trial(bundle, TrialLimits()).run()

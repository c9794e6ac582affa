"""A recipe for a random decoder of a few hundred kilobytes."""

from __future__ import annotations

from pathlib import Path

from quantize.recipe import Recipe

_CALIBRATION = {"num_windows": 6, "window_tokens": 32}


def decoder_recipe(checkpoint: Path) -> Recipe:
    return Recipe.create(
        name="tiny-llama",
        license="Apache-2.0",
        source={"uri": str(checkpoint)},
        weights={"scheme": "auto", "max_kl": 0.003},
        calibration=_CALIBRATION,
    )

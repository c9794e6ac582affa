"""What the commands show: tables of one bundle, of two, and of the recipes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rich.table import Table

from appliance.bundle import Bundle, Manifest
from appliance.bundle.manifest import MODEL_DATA_NAME, MODEL_NAME
from quantize.recipe import Recipe


def bundle_table(bundle: Bundle) -> Table:
    """What a bundle says of itself."""
    manifest = bundle.manifest
    table = _table(
        f"{manifest.name} ({manifest.model.architecture}, {manifest.size_bytes / 1e6:.1f} MB)", "metric", "value"
    )
    for name, value in manifest.evaluation.metrics.items():
        table.add_row(name, f"{value:g}")
    table.add_row("license", manifest.license)
    table.add_row("source", manifest.source.uri)
    table.add_row("signed by", bundle.signer)
    if manifest.evaluation.gates_overruled:
        table.add_row("gates", "overruled by --force")
    return table


def figures_table(title: str, figures: Mapping[str, float], recorded: Mapping[str, float]) -> Table:
    """What was measured now, beside what the bundle recorded."""
    table = _table(title, "metric", "now", "recorded")
    for name, value in figures.items():
        table.add_row(name, f"{value:g}", f"{recorded[name]:g}" if name in recorded else "")
    return table


def comparison_table(first: Manifest, second: Manifest) -> Table:
    """Two bundles' figures, and by how much the second differs."""
    table = _table("", "", first.name, second.name, "difference")
    numbers = _numbers(first), _numbers(second)
    for name in dict.fromkeys([*numbers[0], *numbers[1]]):
        a, b = numbers[0].get(name), numbers[1].get(name)
        change = f"{b - a:+.4g}" if a is not None and b is not None else ""
        if change and a and name.startswith("MB"):
            change = f"{(b or 0) / a - 1:+.1%}"
        table.add_row(name, _shown(a), _shown(b), change)
    for name, left, right in _words(first, second):
        table.add_row(name, left, right, "" if left == right else "differs")
    return table


def recipes_table(recipes: Iterable[Recipe]) -> Table:
    """The shipped recipes and their reasons."""
    table = Table(title="recipes", show_lines=True)
    for title in ("name", "source", "scheme", "license", "why"):
        table.add_column(title, overflow="fold", no_wrap=title in {"name", "scheme", "license"})
    for recipe in recipes:
        table.add_row(recipe.name, recipe.source.uri, recipe.weights.scheme, recipe.license or "", recipe.why)
    return table


def _table(title: str, first: str, *numbers: str) -> Table:
    table = Table(title=title)
    table.add_column(first)
    for name in numbers:
        table.add_column(name, justify="right")
    return table


def _numbers(manifest: Manifest) -> dict[str, float]:
    model = sum(file.size_bytes for file in manifest.files if file.name in {MODEL_NAME, MODEL_DATA_NAME})
    return {"MB": manifest.size_bytes / 1e6, "MB of the model": model / 1e6, **manifest.evaluation.metrics}


def _words(first: Manifest, second: Manifest) -> list[tuple[str, str, str]]:
    def words(manifest: Manifest) -> dict[str, str]:
        weights = manifest.recipe.get("weights", {})
        return {
            "architecture": manifest.model.architecture,
            "scheme": str(weights.get("scheme", "")),
            "source": (manifest.source.sha256 or manifest.source.uri)[:12],
            "text": (manifest.evaluation.text or "")[:24],
            "license": manifest.license,
        }

    left, right = words(first), words(second)
    return [(name, left[name], right[name]) for name in left]


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"

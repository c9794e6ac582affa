"""The tables that the commands show: of one bundle, of two, and of the recipes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rich.table import Table

from appliance.bundle import Bundle, Manifest
from appliance.bundle.manifest import MODEL_DATA_NAME, MODEL_NAME, Witness
from quantize.recipe import DEFAULT_MAX_KL, SEARCHED, Recipe
from quantize.sources.inspection import Inspection

EXPORT_WAYS = {"optimum": "exported by optimum", "direct": "built from the tensors"}  # by the recipe's `export`


def bundle_table(bundle: Bundle) -> Table:
    """Return the facts and figures of a bundle."""
    manifest = bundle.manifest
    table = _table(
        f"{manifest.name} ({manifest.model.architecture}, {manifest.size_bytes / 1e6:.1f} MB)", "metric", "value"
    )
    for name, value in manifest.evaluation.metrics.items():
        table.add_row(name, f"{value:g}")
    if manifest.evaluation.witness is not None:
        table.add_row("float model", witness_text(manifest.evaluation.witness))
    if missed := missed_target(manifest):
        table.add_row("target", missed)
    table.add_row("built for", manifest.built_for)
    table.add_row("license", manifest.license)
    table.add_row("source", manifest.source.uri)
    if limit := manifest.recipe.get("context_limit"):
        table.add_row("context", str(limit))
    if way := EXPORT_WAYS.get(str(manifest.recipe.get("export"))):
        table.add_row("float graph", way)
    table.add_row("signed by", bundle.signer)
    if manifest.evaluation.gates_overruled:
        table.add_row("gates", "overruled by --force")
    return table


def missed_target(manifest: Manifest) -> str | None:
    """Return a sentence if a search did not reach the KL that was allowed, None otherwise."""
    weights, reached = manifest.recipe.get("weights", {}), manifest.evaluation.metrics.get("kl_mean")
    if weights.get("scheme") not in SEARCHED or "max_mb" in weights or reached is None:
        return None
    allowed = weights.get("max_kl", DEFAULT_MAX_KL)
    if reached <= allowed:
        return None
    return (
        f"A KL of {allowed:g} (--max-kl) cannot be reached in {weights['scheme']}: {reached:g} was, with every part in "
        "8 bits"
    )


def witness_text(witness: Witness) -> str:
    """Return the sentences that tell how far the float model is known to be the published one."""
    figures = witness.figures
    parts = ["The float model has no independent witness."]
    if witness.by == "transformers":
        read = "the source" if witness.read == "source" else "the canonical checkpoint"
        parts = [f"transformers reads {read} and computes the same within {witness.difference:g} of the spread."]
    if witness.reason is not None:
        parts.append(f"The source itself was not compared: {witness.reason}.")
    if "perplexity_near" in figures:
        far = f", {figures['perplexity_far']:g} after 1,024" if "perplexity_far" in figures else ""
        parts.append(f"Perplexity of the float model on ordinary text: {figures['perplexity_near']:g}{far}.")
    if "own_found" in figures:
        parts.append(
            f"Of {figures['passages']:g} passages it finds the neighbour of {figures['own_found']:.0%}; counting "
            f"tokens finds {figures['own_found_by_counts']:.0%}."
        )
    if witness.overruled:
        parts.append("Its doubts were overruled by --force.")
    return " ".join(parts)


def source_table(uri: str, found: Inspection) -> Table:
    """Return a source's facts, and the needs of a build and of a device."""
    table = _table(f"{uri} ({found.architecture})", "", "")
    idle = found.num_active_parameters != found.num_parameters
    active = f" ({found.num_active_parameters / 1e6:,.0f} million for a token)" if idle else ""
    parameters = f"{found.num_parameters / 1e6:,.0f} million{active}"
    table.add_row("parameters", f"{parameters}, {found.source_bytes / 1e6:,.0f} MB")
    table.add_row("positions", found.context_limit or f"{found.max_positions:,}")
    for scheme, needs in found.builds.items():
        table.add_row(f"a build in {scheme}", needs.sentence)
    table.add_row("", "times as on two x86 cores of 2026, with fit on all cores of this machine")
    if found.export is not None:
        ways = ", ".join(f"{way} {_gb(memory)}" for way, memory in found.export_memory_bytes.items())
        table.add_row("float graph", f"{found.export} here; memory: {ways}")
    for scheme, size_bytes in found.bundle_bytes.items():
        needed = found.board_memory_bytes[scheme]
        table.add_row(scheme, f"about {size_bytes / 1e6:,.0f} MB; runs on a board with {_gb(needed)} of memory")
    for name, reason in sorted(found.left_out.items()):
        table.add_row(f"left out: {name}", reason)
    return table


def _gb(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB"


def figures_table(title: str, figures: Mapping[str, float], recorded: Mapping[str, float]) -> Table:
    """Return the figures measured now beside those that the bundle recorded."""
    table = _table(title, "metric", "now", "recorded")
    for name, value in figures.items():
        table.add_row(name, f"{value:g}", f"{recorded[name]:g}" if name in recorded else "")
    return table


def comparison_table(first: Manifest, second: Manifest) -> Table:
    """Return two bundles' figures and their differences."""
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
    """Return the shipped recipes and their reasons."""
    table = Table(title="recipes", show_lines=True)
    for title in ("name", "source", "scheme", "license", "why", "measured"):
        table.add_column(title, overflow="fold", no_wrap=title in {"name", "scheme", "license"})
    for recipe in recipes:
        measured = recipe.measured or "not yet"
        table.add_row(recipe.name, recipe.source.uri, recipe.weights.scheme, recipe.license or "", recipe.why, measured)
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
            "built for": manifest.built_for,
            "source": (manifest.source.sha256 or manifest.source.uri)[:12],
            "text": (manifest.evaluation.text or "")[:24],
            "license": manifest.license,
        }

    left, right = words(first), words(second)
    return [(name, left[name], right[name]) for name in left]


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"

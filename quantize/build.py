"""One quantize run, from a recipe to a signed bundle that was opened as the device will open it."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from appliance.bundle import Bundle, BundleStore, SigningKey, TrustedKeys, open_bundle
from appliance.errors import BundleError, QuantizeError
from appliance.home import Home
from quantize.licenses import check_accepted, license_of
from quantize.package import Ingredients, assemble
from quantize.pipeline import DEFAULT_LIMIT_BYTES, open_stages, replace_folder
from quantize.progress import StageProgress
from quantize.recipe import Recipe
from quantize.run import Run, float_checkpoint, input_sha256
from quantize.sources.checkpoint import ENCODERS, architecture_of, is_reranker
from quantize.sources.source import resolve


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """What the person at the keyboard decides, and no recipe may."""

    force: bool = False
    accept_license: bool = False
    offline: bool = False
    cache_bytes: int = DEFAULT_LIMIT_BYTES


DEFAULTS = BuildOptions()


def build_to_folder(
    recipe: Recipe, home: Home, out: Path, progress: StageProgress, options: BuildOptions = DEFAULTS
) -> Bundle:
    """Build a bundle into OUT/NAME, replacing an older one.

    Raises:
        QuantizeError: the checkpoint cannot become a bundle, or a gate fails.
    """
    key, trusted = _keys(home)
    with _ingredients(recipe, home, progress, options) as parts:
        try:
            _package(parts, out, key, trusted, progress)
        except OSError as err:
            raise QuantizeError(f"package stopped: {err.strerror or err} ({out})") from err
    return open_bundle(out / recipe.name, trusted)


def build_into_store(recipe: Recipe, home: Home, progress: StageProgress, options: BuildOptions = DEFAULTS) -> Bundle:
    """Build a bundle and install it on this machine.

    Raises:
        QuantizeError: the checkpoint cannot become a bundle, or a gate fails.
    """
    key, trusted = _keys(home)
    store = BundleStore(home.bundles, trusted)
    with _ingredients(recipe, home, progress, options) as parts, progress.stage("install"):
        size_bytes = sum(path.stat().st_size for path in parts.model_folder.iterdir())
        with store.writing(), store.stage(size_bytes) as staged:
            assemble(parts, staged, key)
            return store.install(staged)


def installed_and_current(recipe: Recipe, home: Home) -> Bundle | None:
    """The installed bundle of this recipe, when it verifies and was built from the same inputs."""
    pinned = recipe.source.sha256
    if pinned is None:
        return None
    try:
        bundle = BundleStore(home.bundles, TrustedKeys.load(home.trusted_keys)).open(recipe.name)
    except BundleError:
        return None
    return bundle if bundle.manifest.recipe.get("input_sha256") == input_sha256(recipe, pinned) else None


def _package(parts: Ingredients, out: Path, key: SigningKey, trusted: TrustedKeys, progress: StageProgress) -> None:
    name = parts.recipe.name
    out.mkdir(parents=True, exist_ok=True)
    with progress.stage("package"), tempfile.TemporaryDirectory(dir=out, prefix=f".{name}-") as temporary:
        fresh = Path(temporary) / name
        fresh.mkdir()
        assemble(parts, fresh, key)
        open_bundle(fresh, trusted)
        replace_folder(fresh, out / name)


def _keys(home: Home) -> tuple[SigningKey, TrustedKeys]:
    key = SigningKey.load_or_create(home.signing_key)
    TrustedKeys.add(home.trusted_keys, key.public)
    return key, TrustedKeys.load(home.trusted_keys)


@contextlib.contextmanager
def open_run(
    recipe: Recipe, home: Home, progress: StageProgress, options: BuildOptions = DEFAULTS
) -> Iterator[tuple[Run, Path]]:
    """A run whose source lies on this machine, and its checkpoint with float weights.

    Raises:
        QuantizeError: not to be had, or its licence is not accepted.
    """
    with open_stages(home.cache / "quantize", progress) as stages:
        if recipe.license is not None:
            check_accepted(recipe, recipe.license, accepted=options.accept_license)
        with progress.stage(f"source {recipe.source.uri}"):
            source = resolve(recipe.source, home.cache / "sources", offline=options.offline)
        run = Run(recipe, source, stages, progress, options.force)
        checkpoint = float_checkpoint(run)
        check_accepted(recipe, license_of(recipe, checkpoint), accepted=options.accept_license)
        yield run, checkpoint
        stages.keep_within(options.cache_bytes)


@contextlib.contextmanager
def _ingredients(recipe: Recipe, home: Home, progress: StageProgress, options: BuildOptions) -> Iterator[Ingredients]:
    with open_run(recipe, home, progress, options) as (run, checkpoint):
        if is_reranker(checkpoint):
            from quantize.encoders.run import run_reranker as run_stages
        elif architecture_of(checkpoint) in ENCODERS:
            from quantize.encoders.run import run_encoder as run_stages
        else:
            from quantize.decoders.run import run_decoder as run_stages
        yield run_stages(run, checkpoint)

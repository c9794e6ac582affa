"""One quantize run, from a recipe to a signed bundle that was opened as the device will open it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from appliance.bundle import Bundle, BundleStore, EvalReport, SigningKey, TrustedKeys
from appliance.bundle.targets import ANY
from appliance.errors import BundleError, QuantizeError
from appliance.home import Home
from quantize import package
from quantize.evaluation import texts
from quantize.evaluation.metrics import check_gates, load_metrics
from quantize.kinds import KINDS, kind_of
from quantize.kinds.kind import EVALUATE, WITNESS, Kind
from quantize.kinds.shared import checkpoint as canonical
from quantize.kinds.shared import release_weights, restore_weights
from quantize.licenses import check_accepted, license_of
from quantize.needs import PACKAGE, Model, Needs, check_needs, needs_of, stage_needs
from quantize.package import Ingredients
from quantize.pipeline import (
    DEFAULT_LIMIT_BYTES,
    StageCache,
    StageOutput,
    Step,
    content_key,
    open_stage_cache,
    steps_to,
    tool_versions,
)
from quantize.progress import StageProgress
from quantize.recipe import Recipe
from quantize.sources.export_choice import with_export
from quantize.sources.inspection import model_of
from quantize.sources.source import Source, resolve
from quantize.witness.verdict import check_witness, load_witness


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """Decisions of the person at the keyboard, which no recipe may take."""

    force: bool = False
    accept_license: bool = False
    offline: bool = False
    cache_bytes: int = DEFAULT_LIMIT_BYTES


DEFAULTS = BuildOptions()


@dataclass(frozen=True, slots=True)
class Run:
    """One run under way: its source lies on this machine, its recipe says which way leads to the float graph."""

    recipe: Recipe
    source: Source
    checkpoint: StageOutput
    stages: StageCache

    @property
    def given(self) -> dict[str, StageOutput]:
        """The folders that stages read and no stage of the kind fills."""
        return {"source": StageOutput(self.source.path, self.source.sha256), "checkpoint": self.checkpoint}

    def run_all(
        self, steps: Sequence[Step], outputs: Mapping[str, StageOutput] | None = None
    ) -> dict[str, StageOutput]:
        """Run or resume the steps after those of `outputs`, with the checkpoint's weights there if one has to run."""
        given = self.given if outputs is None else outputs
        if self.stages.missing(steps, given):
            try:
                restore_weights(self.source.path, self.checkpoint.folder)
            except OSError as err:
                raise QuantizeError(f"checkpoint stopped: {err.strerror or err} ({self.stages.root})") from err
        return self.stages.run_all(steps, given)


def build_to_folder(
    recipe: Recipe, home: Home, out: Path, progress: StageProgress, options: BuildOptions = DEFAULTS
) -> Bundle:
    """Build a bundle into OUT/NAME, replacing an older one.

    Raises:
        QuantizeError: the checkpoint cannot become a bundle, or a gate fails.
    """
    key, trusted = _keys(home)
    with open_run(recipe, home, progress, options) as run:
        parts = _run_stages(run, force=options.force)
        try:
            with progress.stage("package"):
                return package.package_into(parts, out, key, trusted)
        except OSError as err:
            raise QuantizeError(f"package stopped: {err.strerror or err} ({out})") from err


def build_into_store(recipe: Recipe, home: Home, progress: StageProgress, options: BuildOptions = DEFAULTS) -> Bundle:
    """Build a bundle and install it on this machine.

    Raises:
        QuantizeError: the checkpoint cannot become a bundle, or a gate fails.
    """
    key, trusted = _keys(home)
    store = BundleStore(home.bundles, trusted)
    with open_run(recipe, home, progress, options) as run:
        parts = _run_stages(run, force=options.force)
        with progress.stage("install"), store.writing(), store.stage(parts.size_bytes) as staged:
            package.assemble(parts, staged, key)
            return store.activate(store.verify(staged))


def installed_and_current(recipe: Recipe, home: Home, kinds: Mapping[str, Kind] = KINDS) -> Bundle | None:
    """Return the installed bundle of this recipe, if it verifies and was built from the same inputs."""
    pinned = recipe.source.sha256
    if pinned is None:
        return None
    try:
        bundle = BundleStore(home.bundles, TrustedKeys.load(home.trusted_keys)).open(recipe.name)
    except BundleError:
        return None
    expected = input_sha256(recipe, pinned, kinds[bundle.manifest.model.kind])
    return bundle if bundle.manifest.recipe.get("input_sha256") == expected else None


def input_sha256(recipe: Recipe, source_sha256: str, kind: Kind) -> str:
    """Return the identity of all that decides a bundle's bytes: checkpoint, recipe, tools, and the kind's stages."""
    fields = recipe.model_dump(mode="json", exclude={"source", "why", "measured", "export"})
    fields["calibration"] = recipe.calibration.identity()
    fields["evaluation"] = recipe.evaluation.identity()
    if recipe.target == ANY:  # bundles of 0.1.0 have neither this field nor `head`, `int6` and `int5`
        del fields["target"]
    for name in ("matryoshka_dimensions", "scoring"):  # nor these
        if not fields[name]:
            del fields[name]
    for name, default in (("head", "int8"), ("int6", []), ("int5", [])):
        if fields["weights"][name] == default:
            del fields["weights"][name]
    versions = {canonical.name: canonical.version, **kind.versions(recipe), "package": package.VERSION}
    return content_key({"recipe": fields, "source": source_sha256, "versions": versions, "tools": tool_versions()})


@contextlib.contextmanager
def open_run(
    recipe: Recipe,
    home: Home,
    progress: StageProgress,
    options: BuildOptions = DEFAULTS,
    *,
    reference_only: bool = False,
) -> Iterator[Run]:
    """Bring the source onto this machine, and keep the cache within its size afterwards.

    `reference_only` tells that only the stages up to the float graph will run.

    Raises:
        QuantizeError: the source is not available, its licence is not accepted, or memory or disk is short.
    """
    with open_stage_cache(home.cache / "quantize", progress) as stages:
        if recipe.license is not None:
            check_accepted(recipe, recipe.license, accepted=options.accept_license)
        with progress.stage(f"source {recipe.source.uri}"):
            source = resolve(recipe.source, home.cache / "sources", offline=options.offline)
        given = {"source": StageOutput(source.path, source.sha256)}
        first = canonical.step(source="source")
        model = model_of(source.path, is_text=recipe.scoring is not None)
        chosen, choice = with_export(recipe, model)
        progress.note(f"float graph: {choice.way} ({choice.why})")
        needs = _needs(chosen, source, model, stages, reference_only=reference_only)
        if needs is not None:
            progress.note(f"the build needs {needs.sentence}")
            if not options.force:
                check_needs(needs, stages.root)
        output = stages.run(first, given)
        check_accepted(recipe, license_of(recipe, output.folder), accepted=options.accept_license)
        yield Run(chosen, source, output, stages)
        release_weights(output.folder)
        stages.keep_within(options.cache_bytes)


def _needs(recipe: Recipe, source: Source, model: Model, stages: StageCache, *, reference_only: bool) -> Needs | None:
    """Return the needs of the stages that are not done; None if all are."""
    kind = kind_of(source.path, recipe)
    steps = kind.stages(recipe)
    wanted = steps_to(steps, kind.reference) if reference_only else steps
    given = {"source": StageOutput(source.path, source.sha256)}
    names = [step.name for step in stages.missing([canonical.step(source="source"), *wanted], given)]
    if not names:
        return None
    ending = () if reference_only else (PACKAGE,)
    return needs_of(stage_needs(model, recipe.weights.scheme), (*names, *ending))


def _run_stages(run: Run, *, force: bool) -> Ingredients:
    """Run or resume every stage of the checkpoint's kind.

    Raises:
        QuantizeError: the checkpoint cannot become a bundle, or its witness or a gate fails and `force` is not set.
    """
    recipe, folder = run.recipe, run.checkpoint.folder
    kind = kind_of(folder, recipe)
    steps, spec = kind.stages(recipe), kind.describe(recipe, folder)
    outputs = run.run_all(steps_to(steps, WITNESS))
    witness = check_witness(load_witness(outputs[WITNESS].folder), overrule=force)
    outputs = run.run_all([step for step in steps if step.name not in outputs], outputs)
    folders = {name: output.folder for name, output in outputs.items()}
    metrics = load_metrics(folders[EVALUATE])
    overruled = check_gates(recipe.gates, metrics, target=recipe.target, overrule=force)
    outcome = kind.collect(recipe, spec, folders)
    return Ingredients(
        recipe,
        run.source,
        folder,
        outcome.files,
        outcome.spec,
        EvalReport(metrics=metrics, text=texts.DESCRIPTION, gates_overruled=overruled, witness=witness),
        outcome.findings,
        input_sha256(recipe, run.source.sha256, kind),
    )


def _keys(home: Home) -> tuple[SigningKey, TrustedKeys]:
    key = SigningKey.load_or_create(home.signing_key)
    trusted = TrustedKeys.load(home.trusted_keys)
    trusted.add(key.public)
    return key, trusted

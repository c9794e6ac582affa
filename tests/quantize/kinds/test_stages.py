"""Every kind lists its stages in order, and a change of one kind makes no bundle of another stale."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.bundle import Bundle
from appliance.home import Home
from quantize.build import build_into_store, input_sha256, installed_and_current
from quantize.kinds import KINDS
from quantize.kinds.kind import EVALUATE, Kind
from quantize.pipeline import Stage, Step
from quantize.progress import StageProgress
from quantize.recipe import Recipe, Scheme, WeightsPart
from tests.quantize.tiny import FORCED, write_encoder

_SHA256 = "0" * 64
_SCHEMES: Mapping[str, tuple[Scheme, ...]] = {
    "decoder": ("int8", "int4", "auto", "packed"),
    "encoder": ("int8",),
    "reranker": ("int8",),
}
_CASES = [(kind, scheme, smoothing) for kind in KINDS for scheme in _SCHEMES[kind] for smoothing in (None, 0.0, 0.5)]


def recipe(scheme: Scheme = "int8", smoothing: float | None = None) -> Recipe:
    part = WeightsPart(scheme=scheme, smoothing=smoothing)
    return Recipe.create(name="any", source={"uri": "any"}, weights=part.model_dump())


@pytest.mark.parametrize(("kind", "scheme", "smoothing"), _CASES)
def test_every_stage_reads_only_stages_that_run_before_it(kind: str, scheme: Scheme, smoothing: float | None) -> None:
    ready = {"source", "checkpoint"}
    steps = KINDS[kind].stages(recipe(scheme, smoothing))
    for step in steps:
        if step.needed:
            assert set(step.inputs.values()) <= ready
            ready.add(step.name)
    assert len({step.name for step in steps}) == len(steps)
    assert steps[-1].name == EVALUATE
    assert KINDS[kind].reference in ready


@pytest.mark.parametrize("changed", KINDS)
def test_a_changed_stage_makes_only_bundles_of_its_own_kind_stale(changed: str) -> None:
    for name, kind in KINDS.items():
        before = input_sha256(recipe(), _SHA256, kind)
        after = {
            input_sha256(recipe(), _SHA256, other[name])
            for other in ({**KINDS, changed: newer(KINDS[changed])}, {**KINDS, changed: longer(KINDS[changed])})
        }
        assert (before not in after) == (name == changed)


def test_a_new_stage_of_decoders_leaves_an_installed_encoder_current(
    home: Home, tmp_path: Path, progress: StageProgress
) -> None:
    checkpoint = write_encoder(tmp_path / "tiny-bert")
    bundle = build_into_store(Recipe.create(name="tiny-bert", source={"uri": str(checkpoint)}), home, progress, FORCED)
    assert current(bundle, home) == bundle
    assert current(bundle, home, {**KINDS, "decoder": longer(newer(KINDS["decoder"]))}) == bundle
    assert current(bundle, home, {**KINDS, "encoder": newer(KINDS["encoder"])}) is None


def test_text_models_keep_the_identity_that_their_bundles_had_when_all_kinds_shared_one_table() -> None:
    table = {"fuse": 3, "calibrate": 2, "smooth": 1, "fit": 4, "sensitivity": 2, "search": 2, "kv-scales": 2}
    assert KINDS["encoder"].earlier_versions == KINDS["reranker"].earlier_versions == table
    assert not KINDS["decoder"].earlier_versions


@pytest.mark.parametrize(("kind", "scheme", "smoothing"), _CASES)
def test_every_stage_is_given_the_folders_that_its_function_takes(
    kind: str, scheme: Scheme, smoothing: float | None
) -> None:
    for step in KINDS[kind].stages(recipe(scheme, smoothing)):
        target, _, progress, *folders = inspect.signature(step.stage.work).parameters.values()
        assert (target.name, progress.name) == ("target", "progress")
        assert {folder.kind for folder in folders} == {inspect.Parameter.KEYWORD_ONLY}
        required = {folder.name for folder in folders if folder.default is inspect.Parameter.empty}
        assert required <= set(step.inputs) <= {folder.name for folder in folders}


def test_the_stages_are_listed_without_loading_what_they_compute_with() -> None:
    heavy = ("torch", "optimum", "onnxruntime", "onnx_ir", "transformers")
    script = f"import quantize.kinds, sys; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def current(bundle: Bundle, home: Home, kinds: Mapping[str, Kind] = KINDS) -> Bundle | None:
    pinned = {"uri": "x/y", "sha256": bundle.manifest.source.sha256}
    return installed_and_current(Recipe.create(name=bundle.name, source=pinned), home, kinds)


def newer(kind: Kind) -> Kind:
    """Return the kind with a newer version of its first stage."""

    def stages(recipe: Recipe) -> tuple[Step, ...]:
        first, *rest = kind.stages(recipe)
        return (replace(first, stage=replace(first.stage, version=first.stage.version + 1)), *rest)

    return replace(kind, stages=stages)


def longer(kind: Kind) -> Kind:
    """Return the kind with one more stage."""

    def stages(recipe: Recipe) -> tuple[Step, ...]:
        return (Stage("one-more", 1, lambda *_: None).step(), *kind.stages(recipe))

    return replace(kind, stages=stages)

"""The stages that several kinds share, and the checks of text models."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from appliance.bundle.manifest import MODEL_DATA_NAME, MODEL_NAME
from appliance.errors import QuantizeError
from quantize.evaluation.distribution import Distribution
from quantize.evaluation.findings import Findings
from quantize.fusion.export import export as export_graph
from quantize.kinds.kind import EVALUATE, Folders, Outcome
from quantize.pipeline import PARTIAL, stage
from quantize.progress import Progress
from quantize.recipe import Recipe
from quantize.sources.checkpoint import is_text_model, read_checkpoint
from quantize.sources.prepare import has_weights, prepare
from quantize.spec import ModelSpec

# Until 0.1.0 the identity of a text model named the stages of decoders as well. These numbers keep the bundles of that
# time current; they never change again.
DECODER_VERSIONS: Mapping[str, int] = {
    "fuse": 3,
    "calibrate": 2,
    "smooth": 1,
    "fit": 4,
    "sensitivity": 2,
    "search": 2,
    "kv-scales": 2,
}

_WEIGHTS = "*.safetensors"
_SMOOTHING = 0.8  # of MiniLM; with 0.5 the worst cosine is .9909 instead of .9949


@stage("checkpoint", version=2)
def checkpoint(target: Path, part: None, progress: Progress, *, source: Path) -> None:
    """Write the checkpoint in its canonical form: all that it says is used, left out or refused.

    Float weights are linked if the source holds them so. Those of decoders stay in the source otherwise.
    """
    _write_checkpoint(source, target, copies=not _is_decoder(source))


def release_weights(folder: Path) -> None:
    """Remove a checkpoint's weights if they are a copy: the source and the float graph hold the same numbers."""
    files = list(folder.glob(_WEIGHTS))
    if len(files) == 1 and files[0].stat().st_nlink == 1:
        files[0].unlink()


def restore_weights(source: Path, folder: Path) -> None:
    """Write the weights of a text model's checkpoint again, if an earlier build released them."""
    if has_weights(folder) or _is_decoder(source):
        return
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=PARTIAL) as name:
        _write_checkpoint(source, Path(name), copies=True)
        for path in sorted(Path(name).glob(_WEIGHTS)):
            path.rename(folder / path.name)


@stage("export", version=1)
def export(target: Path, task: str, progress: Progress, *, checkpoint: Path, source: Path | None = None) -> None:
    """Export the float graph with optimum, which reads a folder: the source's weights are written for it meanwhile."""
    if source is None or has_weights(checkpoint):
        export_graph(checkpoint, target, task=task)
        return
    with tempfile.TemporaryDirectory(dir=target, prefix=PARTIAL) as name:
        _write_checkpoint(source, Path(name), copies=True)
        export_graph(Path(name), target, task=task)


def _is_decoder(source: Path) -> bool:
    return source.suffix == ".gguf" or not is_text_model(source)


def _write_checkpoint(source: Path, target: Path, *, copies: bool) -> None:
    if source.suffix == ".gguf":
        from quantize.sources.gguf_file import dequantize

        dequantize(source, target, copies=copies)
    else:
        prepare(read_checkpoint(source), target, copies=copies)


def check_scheme(recipe: Recipe) -> None:
    """Refuse a text model in anything but int8.

    Raises:
        QuantizeError: the recipe has another scheme.
    """
    if recipe.weights.scheme != "int8":
        raise QuantizeError(f"encoders are built with --scheme int8, not {recipe.weights.scheme}")


def text_smoothing(recipe: Recipe) -> float:
    """Return the strength with which a text model's channels are evened out."""
    strength = recipe.weights.smoothing
    return _SMOOTHING if strength is None else strength


def collect_text_model(_: Recipe, spec: ModelSpec, folders: Folders) -> Outcome:
    """Gather the results of a text model's stages."""
    findings = Findings(distribution=Distribution.load(folders[EVALUATE]))
    return Outcome(spec, model_files(folders["weights"]), findings)


def model_files(folder: Path) -> dict[str, Path]:
    """Return the files of a graph by their names in the bundle."""
    return {name: folder / name for name in (MODEL_NAME, MODEL_DATA_NAME)}

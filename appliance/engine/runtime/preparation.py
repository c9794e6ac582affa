"""The preparation of a bundle's model for this processor, in a child process of `prepacked.py`.

Run as `python -m appliance.engine.runtime.preparation MODEL FOLDER`: optimizes the graph, saves its packed weights and
derived graphs, and measures how many threads suit it, and whether prompts are faster with a graph of their own.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from appliance.bundle.manifest import KV_SCALES_NAME, MODEL_NAME
from appliance.engine.graphs.prompt import with_int8_products, write_int8_products
from appliance.engine.graphs.replay import replay_graph
from appliance.engine.graphs.slot_arrays import has_state
from appliance.engine.graphs.variants import verify_graph, with_int8_kv
from appliance.engine.runtime.model_file import ModelFile, load_bundle_graph, variant_path
from appliance.engine.runtime.product import int8_products_are_exact
from appliance.engine.runtime.provider import CPU, session_options
from appliance.engine.runtime.tuning import (
    WORTH_ITS_MEMORY,
    Tuning,
    can_measure_prompts,
    guess_s,
    prompt_is_faster,
    tune,
)
from appliance.host.cores import usable_cores
from appliance.host.processor import ProcessorKind, processor_kind

DATA_NAME = "weights.bin"
INT8_NAME = "model.int8.onnx"  # with keys and values in int8
TUNING_NAME = "tuning.json"
_PRODUCTS_NAME = "products.onnx"  # of prompts, packed
_PRODUCTS_DATA_NAME = "products.bin"
_MIN_EXTERNAL_BYTES = 1024
# Arm with dot products and without i8mm (Cortex-A76): the graph takes 9 % fewer instructions there, counted under
# emulation, which does not pay for a second copy of weights, and rounds activations and weights more coarsely.
_WITHOUT_PROMPT_GRAPH: Final[frozenset[ProcessorKind]] = frozenset({"dotprod"})


def optimize(source: Path, target: Path, data_name: str) -> ort.InferenceSession:
    """Write the graph `source` optimized for this processor, and its packed weights to `data_name` beside it."""
    options = session_options(os.cpu_count() or 1)
    options.optimized_model_filepath = str(target)
    options.add_session_config_entry("session.save_external_prepacked_constant_initializers", "1")
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", data_name)
    options.add_session_config_entry(
        "session.optimized_model_external_initializers_min_size_in_bytes", str(_MIN_EXTERNAL_BYTES)
    )
    return load_bundle_graph(source, source.parent, options, [CPU], scratch=target.parent)


def write(source: Path, folder: Path) -> None:
    """Write the prepacked form of the model `source` to a folder."""
    session = optimize(source, folder / MODEL_NAME, DATA_NAME)
    is_decoder = "seqlens_k" in {i.name for i in session.get_inputs()}
    del session
    file = ModelFile(folder / MODEL_NAME, is_optimized=True)
    if not is_decoder:
        write_tuning(file)
        return
    scales = kv_scales(source)
    write_variants(folder, scales)
    write_tuning(file)
    write_prompt_graphs(file, folder / MODEL_NAME, scales)


def kv_scales(source: Path) -> NDArray[np.float32] | None:
    """Return the scales of keys and values in int8 that come with the model `source`, if it has them."""
    scales = source.with_name(KV_SCALES_NAME)
    return np.fromfile(scales, "<f4") if scales.exists() else None


def write_variants(folder: Path, scales: NDArray[np.float32] | None) -> None:
    """Write the graphs that derive from a decoder's: with keys and values in int8, and to verify drafts."""
    if scales is not None:
        _write_int8(folder, "model", scales)
    for path in (folder / MODEL_NAME, folder / INT8_NAME):
        if path.exists():
            verify = verify_graph(path.read_bytes(), ModelFile.verify_width)
            variant_path(path, "verify").write_bytes(verify)
            if has_state(verify):
                variant_path(path, "replay").write_bytes(replay_graph(verify))


def write_prompt_graphs(
    file: ModelFile,
    stored: Path,
    scales: NDArray[np.float32] | None,
    *,
    gain: float = WORTH_ITS_MEMORY,
    kind: ProcessorKind | None = None,
) -> bool:
    """Write the graph for prompts; return False if it does not save the share `gain` of the time here.

    `stored` is the model with its weights as the bundle has them; `kind` is that of this processor.
    """
    if (kind or processor_kind()) in _WITHOUT_PROMPT_GRAPH:
        return False
    is_kept = _write_prompt(file, stored, gain)
    if is_kept and scales is not None:
        _write_int8(file.path.parent, "prompt", scales)
    return is_kept


def _write_int8(folder: Path, name: str, scales: NDArray[np.float32]) -> None:
    """Write the same graph with keys and values in int8."""
    path = folder / f"{name}.int8.onnx"
    path.write_bytes(with_int8_kv((folder / f"{name}.onnx").read_bytes(), scales))


def _write_prompt(file: ModelFile, stored: Path, gain: float = WORTH_ITS_MEMORY) -> bool:
    """Write the graph for prompts; return False if this processor does not compute it right and faster."""
    folder = file.path.parent
    staged, products, prompt = folder / "staged.onnx", folder / _PRODUCTS_NAME, variant_path(file.path, "prompt")
    tuning = Tuning.read(folder / TUNING_NAME)
    try:
        plain = file.session(tuning.num_threads, spinning=False)
        if not (can_measure_prompts(guess_s(plain)) and int8_products_are_exact()):
            return False
        write_int8_products(stored, staged)
        optimize(staged, products, _PRODUCTS_DATA_NAME)
        prompt.write_bytes(with_int8_products(file.path.read_bytes(), products.read_bytes()))
        is_kept = _is_faster(file, prompt, tuning, gain)
    except Exception as err:  # noqa: BLE001 (products of another form, a full disk: answers do without)
        print(f"There is no graph for prompts: {err}", file=sys.stderr)  # noqa: T201
        is_kept = False
    finally:
        for path in (staged, staged.with_suffix(".raw"), products):
            path.unlink(missing_ok=True)
    if not is_kept:
        prompt.unlink(missing_ok=True)
        (folder / _PRODUCTS_DATA_NAME).unlink(missing_ok=True)
    return is_kept


def _is_faster(file: ModelFile, prompt: Path, tuning: Tuning, gain: float) -> bool:
    plain, fast = (
        each.session(tuning.num_threads, spinning=tuning.spinning) for each in (file, replace(file, path=prompt))
    )
    return prompt_is_faster(plain, fast, gain=gain)


def write_tuning(file: ModelFile, *, budget_s: float = 30.0, default: Tuning | None = None) -> None:
    """Measure the threads that suit a model, and write them beside it; `default` on a board that is too slow for it."""
    tuning = tune(
        lambda num_threads, spinning: file.session(num_threads, spinning=spinning),
        usable_cores(),
        budget_s=budget_s,
        default=default,
    )
    tuning.write(file.path.with_name(TUNING_NAME))


if __name__ == "__main__":
    write(Path(sys.argv[1]), Path(sys.argv[2]))

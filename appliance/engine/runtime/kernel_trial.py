"""The child process that tries Lantern's kernels with a decoder, so that a library that crashes ends only this process.

Run as `python -m appliance.engine.runtime.kernel_trial LIBRARY MODEL STOCK FOLDER`: writes to FOLDER the form of MODEL
with the library's products, measures it against the prepacked form in the folder STOCK, and records the choice. Only
the files that the choice needs stay.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from appliance.bundle.manifest import MODEL_NAME
from appliance.engine.graphs.blocks import Pack, write_block_products
from appliance.engine.graphs.position_tables import position_tables
from appliance.engine.kernels import KernelLibrary, StoredWeights, load_kernels
from appliance.engine.runtime.kernel_choice import RECORD_NAME, KernelChoice, Sessions, choose, measure_in_turn
from appliance.engine.runtime.model_file import BLOCKS_DATA_NAME, ModelFile, variant_path
from appliance.engine.runtime.preparation import (
    TUNING_NAME,
    kv_scales,
    write_prompt_graphs,
    write_tuning,
    write_variants,
)
from appliance.engine.runtime.product import int4_rows_are_equal
from appliance.engine.runtime.tuning import WORTH_ITS_MEMORY, Tuning

# A device that starts for the first time waits for the trial, and systemd waits three minutes for the device.
_TUNING_BUDGET_S = 10.0
# Int8 products of prompts beside the kernels' weights, in memory and on disk, where the kernels read prompts well too.
_WORTH_A_SECOND_COPY = 0.2


def write(library: KernelLibrary, source: Path, stock: Path, folder: Path) -> KernelChoice:
    """Write the kernels' form of the model `source` to a folder, and the choice between it and the form in `stock`."""
    file = ModelFile(folder / MODEL_NAME, is_optimized=True, kernels=library.path, weights=source.parent)
    write_block_products(
        stock / MODEL_NAME,
        file.path,
        BLOCKS_DATA_NAME,
        packing(library),
        stored=source,
        constants=position_tables(source),
    )
    scales = kv_scales(source)
    write_variants(folder, scales)
    write_tuning(file, budget_s=_TUNING_BUDGET_S, default=Tuning.read(stock / TUNING_NAME))
    choice = _choice(library, file, stock)
    if choice.for_answers and variant_path(stock / MODEL_NAME, "prompt").exists():
        gain = _WORTH_A_SECOND_COPY if choice.for_prompts else WORTH_ITS_MEMORY
        if write_prompt_graphs(file, stock / MODEL_NAME, scales, gain=gain):
            choice = _choice(library, file, stock)
    choice.write(folder)
    return choice


def _choice(library: KernelLibrary, file: ModelFile, stock: Path) -> KernelChoice:
    plain = ModelFile(stock / MODEL_NAME, is_optimized=True)
    speeds = measure_in_turn([_sessions(plain), _sessions(file)])
    return choose(library.family, *speeds, stock_rows_are_equal=int4_rows_are_equal())


def packing(library: KernelLibrary) -> Pack:
    """Return the function that packs weights for the kernels of a library."""

    def pack(
        codes: NDArray[np.uint8],
        scales: NDArray[np.float32],
        zeros: NDArray[np.uint8] | None,
        num_columns: int,
        bits: int,
    ) -> tuple[NDArray[np.uint8], int]:
        packed = library.pack(StoredWeights(codes, scales, zeros, num_columns, bits))
        return packed.memory, packed.bits

    return pack


def _sessions(file: ModelFile) -> Sessions:
    """Load a form with the threads that suit it, its prompts by the graph that they would take."""
    tuning = Tuning.read(file.path.with_name(TUNING_NAME))
    answer = file.session(tuning.num_threads, spinning=tuning.spinning)
    prompt = file.prompt_session(tuning.num_threads, spinning=tuning.spinning)
    return Sessions(answer, prompt or answer)


def _remove_all_but_record(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name != RECORD_NAME:
            path.unlink()


def _main(library: Path, source: Path, stock: Path, folder: Path) -> None:
    try:
        choice = write(load_kernels(library), source, stock, folder)
    except OSError:  # a full disk, which the next trial may not find
        raise
    except Exception as err:  # noqa: BLE001 - the process ends: a library that does not load, a graph that it refuses
        choice = KernelChoice(fault=(str(err).strip() or type(err).__name__).splitlines()[0][:300])
        choice.write(folder)
    if not (choice.for_answers or choice.for_prompts):
        _remove_all_but_record(folder)


if __name__ == "__main__":
    _main(*map(Path, sys.argv[1:5]))

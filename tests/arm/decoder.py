"""A decoder as the engine runs it with one thread, for an emulated processor or this one.

    python -m tests.arm.decoder make BUNDLE FOLDER LIBRARY      both forms: FOLDER/stock and FOLDER/kernels
    python -m tests.arm.decoder count FORM LIBRARY PAST NEW     marks around a step of NEW tokens after PAST (count.c)
    python -m tests.arm.decoder tokens FORM LIBRARY OUT         the best two tokens after each token of a text

The appliance and its libraries alone are needed. LIBRARY is Lantern's kernels for the processor.
"""

from __future__ import annotations

import ctypes
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from appliance.bundle import DecoderSpec, Manifest
from appliance.bundle.manifest import MANIFEST_NAME, MODEL_NAME, TOKENIZER_NAME
from appliance.engine.graphs.blocks import write_block_products
from appliance.engine.graphs.position_tables import position_tables
from appliance.engine.kernels import load_kernels
from appliance.engine.runtime.kernel_trial import packing
from appliance.engine.runtime.model_file import BLOCKS_DATA_NAME, ModelFile
from appliance.engine.runtime.model_runner import OrtModelRunner
from appliance.engine.runtime.preparation import DATA_NAME, optimize
from appliance.engine.types import StepPlan, StepVariant
from appliance.text.tokenizer import Tokenizer

FORMS = ("stock", "kernels")
_MARK = 0x4D41524B
_CAPACITY = 1024
_NUM_READ = 40
TEXT = (
    "A lighthouse keeper writes down the weather each morning, long before the first boats leave the harbour. He "
    "notes the wind, the height of the waves and the colour of the sky. In the evening he compares what he expected "
    "with what came, and after twenty years his notes fill a shelf. Young sailors ask him for advice, and he answers "
    "that the sea has no habits, only moods; yet he can tell from the gulls when a storm is near, and he has seldom "
    "been wrong. In winter the boats stay in the harbour for weeks, and the village waits. Then he repairs the lamp, "
    "paints the stairs, and reads the books that travellers have left behind. When spring comes, he opens the windows"
    " and begins a new page."
)


def mark(number: int) -> None:
    """Tell the counting plugin that a part begins (0) or ends."""
    ctypes.CDLL(None).prctl(ctypes.c_int(_MARK), ctypes.c_ulong(number))


def make(bundle: Path, folder: Path, library: Path) -> None:
    """Write both forms of a bundle's model for this processor, without measuring anything."""
    stock, kernels = (folder / name for name in FORMS)
    for form in (stock, kernels):
        form.mkdir(parents=True)
        for name in (MANIFEST_NAME, TOKENIZER_NAME):
            shutil.copy(bundle / name, form / name)
    optimize(bundle / MODEL_NAME, stock / MODEL_NAME, DATA_NAME)
    write_block_products(
        stock / MODEL_NAME,
        kernels / MODEL_NAME,
        BLOCKS_DATA_NAME,
        packing(load_kernels(library)),
        constants=position_tables(bundle / MODEL_NAME),
    )


def runner(form: Path, library: Path) -> OrtModelRunner:
    """Load a form with one slot."""
    spec = Manifest.from_bytes((form / MANIFEST_NAME).read_bytes()).model
    assert isinstance(spec, DecoderSpec)
    file = ModelFile(form / MODEL_NAME, is_optimized=True, kernels=library if form.name == "kernels" else None)
    return OrtModelRunner(file, spec, num_slots=1, capacity=_CAPACITY, num_threads=1)


def plan(tokens: Sequence[int], past: int, variant: StepVariant = "answer") -> StepPlan:
    """Return the step that reads `tokens` after `past` ones and gives the logits of the last one."""
    ids = np.asarray([tokens], np.int64)
    rows = np.array([len(tokens) - 1], np.int64)
    return StepPlan(first_slot=0, input_ids=ids, past_lens=np.array([past], np.int32), logit_rows=rows, variant=variant)


def count(form: Path, library: Path, past: int, new: int) -> None:
    """Run a step twice, with marks around the second run: the first one reserves memory as well."""
    model = runner(form, library)
    tokens = [1 + (i * 7919) % 40000 for i in range(new)]
    step = plan(tokens, past, "prompt" if new > 1 else "answer")
    model.run(step)
    mark(0)
    model.run(step)
    mark(1)


@dataclass(frozen=True, slots=True)
class Best:
    """The most likely token at a place of a text, and how far the next one's logit lies below its own."""

    token: int
    lead: float


def best_tokens(form: Path, library: Path) -> list[Best]:
    """Return the most likely token after each token of a text, whose first part is read as a prompt."""
    ids = Tokenizer.from_file(form / TOKENIZER_NAME).encode(TEXT)
    model = runner(form, library)
    best = [_best(model.run(plan(ids[:_NUM_READ], 0, "prompt"))[0])]
    return best + [_best(model.run(plan([ids[i]], i))[0]) for i in range(_NUM_READ, len(ids))]


def read_best_tokens(path: Path) -> list[Best]:
    """Read what the verb `tokens` has written."""
    words = [line.split() for line in path.read_text("ascii").splitlines()]
    return [Best(int(token), float(lead)) for token, lead in words]


def _best(logits: NDArray[np.float32]) -> Best:
    second, first = np.argsort(logits)[-2:]
    return Best(int(first), float(logits[first] - logits[second]))


def _main(verb: str, *arguments: str) -> None:
    paths = [Path(argument) for argument in arguments]
    if verb == "make":
        make(*paths)
    elif verb == "count":
        count(paths[0], paths[1], int(arguments[2]), int(arguments[3]))
    else:
        best = best_tokens(paths[0], paths[1])
        paths[2].write_text("".join(f"{one.token} {one.lead!r}\n" for one in best), "ascii")


if __name__ == "__main__":
    _main(*sys.argv[1:])

"""The last hidden states of a float decoder over whole texts, and the logits that its head makes of some of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from quantize.evaluation.segments import Segment, blocks_of, feeds_of, walk
from quantize.graph.edit import LOGITS
from quantize.progress import Progress


@dataclass(frozen=True, slots=True)
class HiddenStates:
    """The head's inputs (T, hidden) of each text, and the product that is the head."""

    folder: Path
    by_text: tuple[NDArray[np.float32], ...]
    product: Segment

    @classmethod
    def of(cls, folder: Path, texts: Sequence[NDArray[np.int64]], progress: Progress) -> Self:
        """Compute the float graph of a folder block by block."""
        *body, product = blocks_of(folder, [LOGITS])
        (name,) = product.inputs
        feeds = [{**given, "logit_rows": np.arange(given["input_ids"].size)} for given in feeds_of(folder, texts)]
        last = [*body[:-1], body[-1].asking_for(name)]
        found = {at: values[name] for _, at, values in walk(folder, last, feeds, progress) if values}
        return cls(folder, tuple(np.asarray(found[at], np.float32) for at in range(len(texts))), product)

    def save(self, path: Path) -> None:
        """Write the values, one array a text, to an .npz file."""
        np.savez(path, *self.by_text)

    @classmethod
    def load(cls, folder: Path, path: Path) -> Self:
        """Read the values of the float graph of a folder."""
        with np.load(path) as arrays:
            by_text = tuple(arrays[f"arr_{at}"] for at in range(len(arrays)))
        return cls(folder, by_text, blocks_of(folder, [LOGITS])[-1])

    def head(self) -> Callable[[int, range], NDArray[np.float32]]:
        """Load the head, and return the function that gives a text's logits (positions, V) at some positions."""
        session = self.product.session(self.folder, prepack=False)
        (name,) = self.product.inputs

        def logits(text: int, positions: range) -> NDArray[np.float32]:
            rows = self.by_text[text][positions.start : positions.stop]
            found: NDArray[np.float32] = session.run([LOGITS], {name: rows})[0]
            return found

        return logits

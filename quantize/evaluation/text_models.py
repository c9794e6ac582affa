"""A quantized text model beside its float form: every input alone in both, and in batches in the quantized one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from quantize.evaluation.distribution import Distribution
from quantize.evaluation.metrics import Metrics, save_metrics
from quantize.progress import Progress

_ALONE_SHARE = 0.9  # of the time; batches take the rest

Float32 = NDArray[np.float32]
Input = TypeVar("Input")


@dataclass(frozen=True, slots=True)
class TextEvaluation:
    """The figures for the manifest, and the difference of every input's output from that of the float form."""

    metrics: Metrics
    differences: Float32

    def save(self, folder: Path) -> None:
        """Write the figures, and the distribution of the differences."""
        Distribution.of(self.differences).save(folder)
        save_metrics(folder, self.metrics)


@dataclass(frozen=True, slots=True)
class Subject(Generic[Input]):
    """One model in two forms, and the inputs of both.

    `quantized` computes the rows (N, ...) of a batch, `reference` the row (1, ...) of one input; `compare` turns all
    rows of both, each computed alone, into figures.
    """

    inputs: Sequence[Input]
    quantized: Callable[[Sequence[Input]], Float32]
    reference: Callable[[Input], Float32]
    batch_size: int
    compare: Callable[[Float32, Float32], TextEvaluation]


def evaluate_text_model(subject: Subject[Input], progress: Progress) -> TextEvaluation:
    """Compare both forms input by input, and measure the largest difference that a batch makes."""
    inputs, size = subject.inputs, subject.batch_size
    quantized, reference = [], []
    for index, one in enumerate(inputs):
        quantized.append(subject.quantized([one]))
        reference.append(subject.reference(one))
        progress.advance_to(_ALONE_SHARE * (index + 1) / len(inputs))
    alone = np.concatenate(quantized)
    found = subject.compare(alone, np.concatenate(reference))
    batched = np.concatenate([subject.quantized(inputs[at : at + size]) for at in range(0, len(inputs), size)])
    difference = float(np.abs(batched - alone).max())
    return TextEvaluation({**found.metrics, "batch_difference": difference}, found.differences)

"""The KL that the narrowest width costs each part, for all at once from gradients, not by one evaluation a part.

The KL that a small change D of the weights causes is half the mean of (g . D)^2, where g is the gradient of the log
probability of a token that the model itself samples (its Fisher information). Random signs let one backward pass stand
for all positions of a window, and the rows of a part count one by one, since their rounding errors are independent.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from appliance.errors import QuantizeError
from quantize.graph.factors import Factors
from quantize.pipeline import PARTIAL
from quantize.precision.fitted import load_errors, load_fitted
from quantize.precision.matrices import HEAD
from quantize.precision.parts import Part
from quantize.precision.torch_blocks import TorchBlocks
from quantize.progress import Progress

NAME = "sensitivity.json"

_NUM_WINDOWS = 16
_SEED = 0


def measure_sensitivity(
    blocks: TorchBlocks,
    fit: Path,
    factors: Factors,
    parts: Sequence[Part],
    windows: NDArray[np.int64],
    target: Path,
    progress: Progress,
) -> None:
    """Write the KL in nats a token that each part alone causes in the narrowest width that it was fitted in.

    The weights of one layer are in memory at a time, forward and back; what each layer receives lies in files.

    Raises:
        QuantizeError: the checkpoint's modules are not those of the graph.
    """
    texts = [torch.from_numpy(window) for window in windows[:_NUM_WINDOWS]]
    probing = _Probing(blocks, fit, factors, parts, len(texts))
    probing.check()
    num_steps = 2 * len(blocks.layers) + 1
    with tempfile.TemporaryDirectory(dir=target, prefix=PARTIAL) as scratch:
        files = [Path(scratch) / f"{index}.npy" for index in range(len(blocks.layers))]
        hidden = _forward(blocks, texts, files, progress.part(0.0, len(files) / num_steps))
        gradients = _back_through_head(blocks, probing, texts, hidden)
        backward = progress.part((len(files) + 1) / num_steps, 1.0)
        for index in reversed(range(len(files))):
            with blocks.layer(index), probing.layer(index) as probes:
                for at, given in enumerate(np.load(files[index])):
                    gradients[at] = _back(blocks, index, torch.from_numpy(given), gradients[at])
                    probes.next_text()
            backward.advance_to((len(files) - index) / len(files))
    if probing.has_tied_head:
        with probing.head() as probes:
            for text, gradient in zip(texts, gradients, strict=True):
                blocks.embedded(text).backward(gradient)
                probes.next_text()
    num_positions = sum(len(text) for text in texts)
    found = {name: total / 2 / num_positions for name, total in probing.totals().items()}
    (target / NAME).write_text(json.dumps(found, sort_keys=True))


def load_sensitivity(folder: Path) -> dict[str, float]:
    """Read the KL by the parts' names."""
    found: dict[str, float] = json.loads((folder / NAME).read_text())
    return found


def _forward(
    blocks: TorchBlocks, texts: Sequence[torch.Tensor], files: Sequence[Path], progress: Progress
) -> list[torch.Tensor]:
    """Compute all layers, and return what the last leaves; each layer's file keeps its inputs (texts, 1, T, hidden)."""
    blocks.learn_arguments(texts[0])
    with torch.no_grad():
        hidden = [blocks.embedded(text) for text in texts]
        for index, path in enumerate(files):
            np.save(path, torch.stack(hidden).numpy())
            with blocks.layer(index):
                hidden = [blocks.compute(index, given) for given in hidden]
            progress.advance_to((index + 1) / len(files))
    return hidden


def _back_through_head(
    blocks: TorchBlocks, probing: _Probing, texts: Sequence[torch.Tensor], hidden: Sequence[torch.Tensor]
) -> list[torch.Tensor]:
    """Return the gradient of each text's score by what the last layer left."""
    generator = torch.Generator().manual_seed(_SEED)
    gradients = []
    with probing.head() as probes:
        for text, given in zip(texts, hidden, strict=True):
            leaf = given.detach().requires_grad_()
            log_probs = torch.log_softmax(blocks.logits(leaf, text), dim=-1)
            sampled = torch.multinomial(log_probs.detach().exp(), 1, generator=generator)[:, 0]
            signs = torch.randint(0, 2, sampled.shape, generator=generator) * 2 - 1
            (log_probs[torch.arange(len(sampled)), sampled] * signs).sum().backward()
            gradients.append(_gradient_of(leaf))
            probes.next_text()
    return gradients


def _back(blocks: TorchBlocks, index: int, given: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    leaf = given.requires_grad_()
    blocks.compute(index, leaf).backward(gradient)
    return _gradient_of(leaf)


def _gradient_of(leaf: torch.Tensor) -> torch.Tensor:
    assert leaf.grad is not None
    return leaf.grad


class _Probing:
    """The probes of a model: those of one layer, or of the head, are in place at a time."""

    def __init__(self, blocks: TorchBlocks, fit: Path, factors: Factors, parts: Sequence[Part], num_texts: int) -> None:
        self._fit, self._factors, self._num_texts = fit, factors, num_texts
        # `base_model` is the whole model for some families, so names come without their prefix instead.
        self._modules = {name.removeprefix("model."): module for name, module in blocks.model.named_modules()}
        self._by_matrix: dict[str, list[Part]] = {}
        for part in parts:
            self._by_matrix.setdefault(part.matrix, []).append(part)
        self._errors = load_errors(fit)
        self._by_row: dict[str, torch.Tensor] = {}
        tied = blocks.model.get_input_embeddings().weight is blocks.model.get_output_embeddings().weight
        self.has_tied_head = tied and HEAD in self._by_matrix

    def check(self) -> None:
        """Refuse a model that lacks a part, before anything is computed."""
        for matrix, members in self._by_matrix.items():
            if self._modules.get(_path(matrix)) is None:
                for part in members:
                    _weight_of(
                        self._modules.get(_path(part.name)), part.name, (part.stop - part.start, part.num_inputs)
                    )

    @contextlib.contextmanager
    def layer(self, index: int) -> Iterator[_Probes]:
        """Put the probes of a layer in place, whose weights the caller holds."""
        with self._placed([matrix for matrix in self._by_matrix if matrix.startswith(f"layers.{index}/")]) as probes:
            yield probes

    @contextlib.contextmanager
    def head(self) -> Iterator[_Probes]:
        """Put the probe of the head in place, if it is a part."""
        with self._placed([matrix for matrix in self._by_matrix if matrix == HEAD]) as probes:
            yield probes

    def totals(self) -> dict[str, float]:
        """Return the squares of all rows, summed, by the parts' names."""
        return {name: sum(float(rows.square().sum()) for rows in by_row) for name, by_row in self._by_row.items()}

    @contextlib.contextmanager
    def _placed(self, matrices: Sequence[str]) -> Iterator[_Probes]:
        probes = _Probes()
        try:
            for matrix in matrices:
                self._place(matrix, probes)
            yield probes
        finally:
            probes.remove()

    def _place(self, matrix: str, probes: _Probes) -> None:
        members = self._by_matrix[matrix]
        stored = load_fitted(self._fit, matrix, self._errors[members[0].name].narrowest)
        fitted = torch.from_numpy(self._factors.undo(matrix, stored.dequantized()))
        whole = self._modules.get(_path(matrix))
        if whole is not None:
            weight = _weight_of(whole, matrix, fitted.shape)
            probes.add(weight, fitted, {part.name: (part.rows, self._rows_of(part)) for part in members})
            return
        for part in members:
            weight = _weight_of(self._modules.get(_path(part.name)), part.name, fitted[part.rows].shape)
            probes.add(weight, fitted[part.rows], {part.name: (slice(None), self._rows_of(part))})

    def _rows_of(self, part: Part) -> torch.Tensor:
        return self._by_row.setdefault(part.name, torch.zeros(self._num_texts, part.stop - part.start))


class _Probes:
    """Hooks on weights that are in memory; each adds the gradient of a text, times the change, to rows of sums."""

    def __init__(self) -> None:
        self._text = 0
        self._placed: list[tuple[torch.nn.Parameter, torch.utils.hooks.RemovableHandle]] = []

    def next_text(self) -> None:
        """Count what follows for the next text."""
        self._text += 1

    def add(
        self, weight: torch.nn.Parameter, fitted: torch.Tensor, sums: Mapping[str, tuple[slice, torch.Tensor]]
    ) -> None:
        """Watch a weight whose fitted form is `fitted`; `sums` has some of its rows, and their sums (texts, rows)."""
        difference = (fitted - weight.detach()).to(torch.bfloat16)

        def accumulate(weight: torch.Tensor) -> None:
            if weight.grad is None:
                return
            by_row = (weight.grad * difference).sum(dim=1)
            for rows, total in sums.values():
                total[self._text] += by_row[rows]
            weight.grad = None

        weight.requires_grad_()
        self._placed.append((weight, weight.register_post_accumulate_grad_hook(accumulate)))

    def remove(self) -> None:
        """Take all hooks away."""
        for weight, handle in self._placed:
            handle.remove()
            weight.requires_grad_(requires_grad=False)


def _weight_of(module: torch.nn.Module | None, name: str, shape: Sequence[int]) -> torch.nn.Parameter:
    weight = getattr(module, "weight", None)
    if not isinstance(weight, torch.nn.Parameter) or tuple(weight.shape) != tuple(shape):
        raise QuantizeError(f"the checkpoint has no module {name} of the graph's shape; --scheme auto cannot weigh it")
    return weight


def _path(name: str) -> str:
    return name.replace("/", ".")

"""What its narrowest width costs each part in KL, all at once, from gradients instead of one evaluation a part.

The KL that a small change D of the weights causes is half the mean of (g . D)^2, where g is the gradient of the log
probability of a token that the model itself samples (its Fisher information). Random signs let one backward pass stand
for all positions of a window, and the rows of a part count one by one, since their rounding errors are independent.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from appliance.errors import QuantizeError
from quantize.precision.fit import load_errors, load_fitted
from quantize.precision.parts import Part
from quantize.precision.smoothing import Factors
from quantize.quiet import quiet

NAME = "sensitivity.json"

_NUM_WINDOWS = 16
_NUM_PROBES = 1  # backward passes a window; the many rows of a part already average
_SEED = 0


def measure_sensitivity(
    checkpoint: Path,
    fit: Path,
    factors: Factors,
    parts: Sequence[Part],
    windows: NDArray[np.int64],
    target: Path,
    report: Callable[[float], None],
) -> None:
    """Write the KL in nats a token that each part alone causes in the narrowest width that it was fitted in.

    Raises:
        QuantizeError: the checkpoint's modules are not those of the graph.
    """
    with quiet():
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    model.requires_grad_(requires_grad=False)
    probes = _probes(model, fit, factors, parts)
    generator = torch.Generator().manual_seed(_SEED)
    windows = windows[:_NUM_WINDOWS]
    for index, window in enumerate(windows):
        _run_window(model, torch.from_numpy(window), generator)
        report((index + 1) / len(windows))
    num_positions = _NUM_PROBES * windows.size
    found = {name: total / 2 / num_positions for probe in probes for name, total in probe.totals.items()}
    (target / NAME).write_text(json.dumps(found, sort_keys=True))


def load_sensitivity(folder: Path) -> dict[str, float]:
    """KL by the parts' names."""
    found: dict[str, float] = json.loads((folder / NAME).read_text())
    return found


class _Probe:
    """Watches one weight of the torch model; `totals` grows with every backward pass."""

    def __init__(self, weight: torch.nn.Parameter, difference: torch.Tensor, rows: dict[str, slice]) -> None:
        self.totals = dict.fromkeys(rows, 0.0)
        self._difference = difference.to(torch.bfloat16)
        self._rows = rows
        weight.requires_grad_()
        weight.register_post_accumulate_grad_hook(self._accumulate)

    def _accumulate(self, weight: torch.Tensor) -> None:
        if weight.grad is None:
            return
        by_row = (weight.grad * self._difference).sum(dim=1).square()
        for name, rows in self._rows.items():
            self.totals[name] += float(by_row[rows].sum())
        weight.grad = None


def _run_window(model: torch.nn.Module, window: torch.Tensor, generator: torch.Generator) -> None:
    log_probs = torch.log_softmax(model(window[None], use_cache=False).logits[0].float(), dim=-1)
    for probe in range(_NUM_PROBES):
        sampled = torch.multinomial(log_probs.detach().exp(), 1, generator=generator)[:, 0]
        signs = torch.randint(0, 2, sampled.shape, generator=generator) * 2 - 1
        score = (log_probs[torch.arange(len(sampled)), sampled] * signs).sum()
        score.backward(retain_graph=probe + 1 < _NUM_PROBES)


def _probes(model: torch.nn.Module, fit: Path, factors: Factors, parts: Sequence[Part]) -> list[_Probe]:
    """One for each module of the checkpoint: a part's own, or the joined one that the checkpoint already has."""
    # Not by `base_model`, which for some families is the whole model.
    modules = {name.removeprefix("model."): module for name, module in model.named_modules()}
    by_matrix: dict[str, list[Part]] = {}
    for part in parts:
        by_matrix.setdefault(part.matrix, []).append(part)
    errors = load_errors(fit)
    probes = []
    for matrix, members in by_matrix.items():
        stored = load_fitted(fit, matrix, errors[members[0].name].narrowest)
        fitted = torch.from_numpy(factors.undo(matrix, stored.dequantized()))
        whole = modules.get(_path(matrix))
        if whole is not None:
            rows = {part.name: part.rows for part in members}
            probes.append(_probe(whole, matrix, fitted, rows))
            continue
        for part in members:
            rows = {part.name: slice(None)}
            probes.append(_probe(modules.get(_path(part.name)), part.name, fitted[part.rows], rows))
    return probes


def _probe(module: torch.nn.Module | None, name: str, fitted: torch.Tensor, rows: dict[str, slice]) -> _Probe:
    weight = getattr(module, "weight", None)
    if not isinstance(weight, torch.nn.Parameter) or weight.shape != fitted.shape:
        raise QuantizeError(f"the checkpoint has no module {name} of the graph's shape; --scheme auto cannot weigh it")
    return _Probe(weight, fitted - weight.detach(), rows)


def _path(name: str) -> str:
    return name.replace("/", ".")

"""Every matrix of a decoder in each width of the scheme, fitted once to the calibration text, over all cores.

This process computes the float graph piece by piece and leaves the rows that the matrices multiply in files. Worker
processes map them, sum up their moments and fit the matrices meanwhile. The bytes of the result depend neither on the
number of workers nor on their order.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from appliance.bundle import DecoderSpec
from appliance.bundle.manifest import MODEL_NAME
from appliance.errors import QuantizeError
from appliance.host.cores import usable_cores
from appliance.host.memory import available_bytes
from quantize.evaluation.segments import feeds_of, segments_of
from quantize.graph.codec import HEAD_WIDTHS, Bits, round_to_nearest
from quantize.graph.factors import Factors
from quantize.pipeline import PARTIAL
from quantize.precision.fitted import Errors, save_errors, save_fitted
from quantize.precision.kv_scales import KvPeaks
from quantize.precision.matrices import Matrix, matrices_of, plain_products
from quantize.precision.mixtures import Mixture, mixtures_of
from quantize.precision.parts import Patterns
from quantize.precision.segments import run_segments
from quantize.precision.workers import Inline, Message, Workers
from quantize.progress import Progress

_WORKER = "quantize.precision.fit_worker"  # not imported here: it loads torch, which stays in memory
_HEAD_ROWS = 4096  # that are compared at a time
_GRAPH_SHARE = 0.25  # of the time
_SEGMENT_BYTES = 256 << 20  # of rows that one segment leaves
_MAX_WAITING_BYTES = 1 << 30  # of rows that no worker has done with
_SMALL = 1e10  # multiplications; fewer are done before workers have started
_WORKER_BYTES = 350 << 20  # of a worker without any matrix
_MOMENT_COPIES = 4  # in float32, at the peak: the moments, their factor in float64, and in float32
_WEIGHT_COPIES = 7


@dataclass(frozen=True, slots=True)
class Product:
    """One value of the graph that is multiplied by matrices: its width, their weights in all, and experts' if any."""

    name: str
    width: int
    num_weights: int
    mixture: Mixture | None = None

    def cost(self, num_rows: int, num_widths: int) -> float:
        """Estimate the multiplications of its moments and fits."""
        products = 1 + 8 * num_widths
        of_experts = 0.0 if self.mixture is None else self.mixture.cost(num_rows, products)
        alone = num_rows * self.width**2 / 2 + self.width**3 / 2 + products * self.num_weights * self.width
        return alone + of_experts

    @property
    def memory_bytes(self) -> int:
        """The memory of a worker at its peak."""
        moments, weights, stored = self.width, self.num_weights, 0
        if (mixture := self.mixture) is not None:  # of which one expert is fitted at a time
            moments = max(moments, mixture.width)
            weights = max(weights, 2 * mixture.hidden * mixture.width)
            stored = 2 * 3 * mixture.count * mixture.hidden * mixture.width  # codes, and once more joined
        return _WORKER_BYTES + 4 * (_MOMENT_COPIES * moments**2 + _WEIGHT_COPIES * weights) + stored

    @property
    def values(self) -> tuple[str, ...]:
        """The names of the values whose rows a fit reads."""
        return (self.name,) if self.mixture is None else (self.name, self.mixture.scores)


def fit_matrices(
    fused: Path,
    target: Path,
    widths: Sequence[Bits],
    windows: NDArray[np.int64],
    spec: DecoderSpec,
    progress: Progress,
    *,
    smoothed: Path | None = None,
    patterns: Patterns | None = None,
    num_workers: int | None = None,
) -> None:
    """Quantize every matrix by GPTQ in the given widths; the head is rounded, if the widths include its own.

    The same pass over the texts gives the scales of keys and values.

    `smoothed` is a folder with factors, with which values and matrices are taken. `patterns` name the parts that
    will have more than 4 bits, if that is decided: each part is then fitted in its own width alone.
    `num_workers` is 0 for none beside this process, and None for as many as cores and memory allow.

    Raises:
        QuantizeError: a matrix cannot be fitted, or a worker died.
    """
    graph = ir.load(fused / MODEL_NAME).graph
    every, products = matrices_of(graph), _products(plain_products(graph), mixtures_of(graph))
    errors: Errors = {}
    peaks = KvPeaks(fused)
    if set(HEAD_WIDTHS) <= set(widths):
        errors |= _fit_head(next(matrix for matrix in every if matrix.is_head), target)
    num_widths = len(widths) if patterns is None else 1
    if num_workers is None:
        num_workers = choose_num_workers(products, windows.size, num_widths, available_bytes())
    setup = _setup_message(fused, target, widths, spec, smoothed, patterns)
    with tempfile.TemporaryDirectory(dir=target, prefix=PARTIAL) as scratch, _pool(setup, num_workers) as pool:
        groups = groups_of(products, windows.size)
        names = [[name for product in group for name in product.values] for group in groups]
        factors = None if smoothed is None else Factors.load(smoothed)
        segments = segments_of(fused, names, [*itertools.chain(*names), *peaks.names], factors=factors)
        feeds = feeds_of(fused, list(windows))
        computed, fitted = progress.together(_GRAPH_SHARE, 1 - _GRAPH_SHARE)
        costs = {product.name: product.cost(windows.size, num_widths) for product in products}
        queue = _Queue(pool, costs, fitted)
        runs = run_segments(fused, segments, feeds, Path(scratch), computed, peaks=peaks, factors=factors)
        for group, files in zip(groups, runs, strict=True):
            for product in sorted(group, key=lambda product: -costs[product.name]):
                queue.put(product, [files[name] for name in product.values])
            queue.wait(_MAX_WAITING_BYTES)
        queue.wait(0)
    peaks.save(target)
    save_errors(target, errors | queue.errors)


def choose_num_workers(products: Sequence[Product], num_rows: int, num_widths: int, free_bytes: int) -> int:
    """Return the number of processes that cores and memory allow; 0 for so little work that none is worth it.

    Raises:
        QuantizeError: the memory is short of a single one.
    """
    if sum(product.cost(num_rows, num_widths) for product in products) < _SMALL:
        return 0
    needed = max(product.memory_bytes for product in products)
    if free_bytes < needed:
        raise QuantizeError(
            f"fit needs {needed / 1e9:.1f} GB of memory for the widest matrix and {free_bytes / 1e9:.1f} GB are free; "
            "close other programs, or build on a larger machine"
        )
    return min(usable_cores(), free_bytes // needed, len(products))


def groups_of(products: Sequence[Product], num_rows: int) -> list[list[Product]]:
    """Group neighbours, so that the rows of a group stay within a size, or are those of one value."""
    groups: list[list[Product]] = [[]]
    size_bytes = 0
    for product in products:
        size_bytes += 4 * num_rows * product.width
        if groups[-1] and size_bytes > _SEGMENT_BYTES:
            groups.append([])
            size_bytes = 4 * num_rows * product.width
        groups[-1].append(product)
    return groups


class _Queue:
    """The tasks under way: `errors` grows and a file goes with each that is done. Owned by one thread."""

    def __init__(self, pool: Workers | Inline, costs: Mapping[str, float], progress: Progress) -> None:
        self.errors: Errors = {}
        self._pool, self._costs, self._progress = pool, costs, progress
        self._files: dict[str, list[Path]] = {}
        self._done = 0.0

    def put(self, product: Product, files: list[Path]) -> None:
        """Submit the matrices behind one value; `files` are those of its `values`."""
        self._files[product.name] = files
        rows, *scores = (str(path.absolute()) for path in files)
        task = {"value": product.name, "rows": rows, "width": product.width, "scores": next(iter(scores), None)}
        self._pool.submit(task)

    def wait(self, max_bytes: int) -> None:
        """Wait until the files of waiting tasks take at most so many bytes."""
        while self._pool.num_pending and self._waiting_bytes() > max_bytes:
            result = self._pool.next_result()
            name = result["value"]
            self.errors |= result["errors"]
            for path in self._files.pop(name):
                path.unlink()
            self._done += self._costs[name]
            self._progress.advance_to(self._done / sum(self._costs.values()))

    def _waiting_bytes(self) -> int:
        return sum(path.stat().st_size for files in self._files.values() for path in files)


def _pool(setup: Message, num_workers: int) -> Workers | Inline:
    if num_workers:
        return Workers(_WORKER, setup, num_workers, "fit")
    from quantize.precision.fit_worker import start

    return Inline(start(setup))


def _setup_message(
    fused: Path,
    target: Path,
    widths: Sequence[Bits],
    spec: DecoderSpec,
    smoothed: Path | None,
    patterns: Patterns | None,
) -> Message:
    """Return the first message for a worker: all that its tasks have in common."""
    return {
        "fused": str(fused.absolute()),
        "target": str(target.absolute()),
        "smoothed": None if smoothed is None else str(smoothed.absolute()),
        "widths": list(widths),
        "patterns": None if patterns is None else [[bits, list(names)] for bits, names in patterns.items()],
        "spec": spec.model_dump(mode="json"),
    }


def _products(matrices: Sequence[Matrix], mixtures: Sequence[Mixture]) -> list[Product]:
    """Return the values that matrices multiply, in the order in which they arise."""
    by_rows = {mixture.rows: mixture for mixture in mixtures}
    sizes: dict[str, tuple[int, int]] = {}
    for matrix in matrices:
        width, num_weights = sizes.get(matrix.input_name, (matrix.num_inputs, 0))
        sizes[matrix.input_name] = width, num_weights + matrix.num_inputs * matrix.num_outputs
    return [Product(name, *size, by_rows.get(name)) for name, size in sizes.items()]


def _fit_head(head: Matrix, target: Path) -> dict[str, dict[str, float]]:
    weight = head.view()
    found = {}
    for bits in HEAD_WIDTHS:
        stored = round_to_nearest(weight, bits)
        parts = [slice(at, at + _HEAD_ROWS) for at in range(0, len(weight), _HEAD_ROWS)]
        differences = (stored.rows(part).dequantized() - weight[part] for part in parts)
        found[f"int{bits}"] = sum(float(np.square(difference).sum()) for difference in differences)
        save_fitted(target, head.name, stored)
    return {head.name: found}

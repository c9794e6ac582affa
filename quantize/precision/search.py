"""The search for each part's width: the calibration text decides the order, the target decides where to stop.

All parts begin in the narrowest width. The best allocation is a prefix of one list: steps to a wider one, by the KL
that each saves for a byte that it costs. A width that saves less a byte than the next wider one is stepped over. If
bytes are the target, a step that no longer fits, as the embedding's may be, makes room for those after it. The parts of
one product keep one width: apart, queries, keys and values would have a tenth less KL, in three products.

The price of a width is its bytes in the file. They are those that each token reads on every board as well, since
Lantern's kernels pack 4, 5, 6 and 8 bits into as many; only the stock operators read 5 and 6 bits as 8.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from appliance.errors import QuantizeError
from quantize.evaluation.findings import Try
from quantize.graph.codec import Bits
from quantize.precision.fitted import PartErrors
from quantize.precision.parts import Part, Widths
from quantize.progress import Progress

TRIES_NAME = "tries.json"
ALLOCATION_NAME = "allocation.json"

_MAX_TRIES = 8
_CLOSE_ENOUGH = 0.97  # of the KL that is allowed
_SMALLEST_KL = 1e-9


Measure = Callable[[Widths], tuple[int, Mapping[str, float]]]


@dataclass(frozen=True, slots=True)
class Widening:
    """The parts of one product in a wider form: the KL that they save, and the bytes that they cost."""

    names: tuple[str, ...]
    bits: Bits
    gain: float
    extra_bytes: int

    @property
    def gain_per_byte(self) -> float:
        """The KL saved a byte, which orders the steps."""
        return self.gain / self.extra_bytes


@dataclass(frozen=True, slots=True)
class Order:
    """The steps, those that gain most a byte first; the KL left after all of them; the widths before the first."""

    steps: tuple[Widening, ...]
    floor: float
    narrowest: Widths

    @classmethod
    def create(cls, parts: Sequence[Part], sensitivity: Mapping[str, float], errors: Mapping[str, PartErrors]) -> Order:
        """Order the steps by the KL saved a byte; `sensitivity` is the KL that each part's narrowest width costs."""
        products: dict[str, list[Part]] = {}
        for part in parts:
            products.setdefault(part.matrix, []).append(part)

        def damage(members: Sequence[Part], bits: Bits) -> float:
            return sum(sensitivity[part.name] * errors[part.name].share(bits) for part in members)

        steps: list[Widening] = []
        for members in products.values():
            known = sorted(errors[members[0].name].by_width)
            steps += _steps(members, {bits: damage(members, bits) for bits in known})
        steps.sort(key=lambda step: (-step.gain_per_byte, step.names, step.bits))
        return cls(tuple(steps), damage(parts, 8), {part.name: errors[part.name].narrowest for part in parts})

    def filling(self, extra_bytes: int) -> Order:
        """Put those steps first that fit into so many bytes if each in turn takes its bytes.

        A product with a step that did not fit gets no later one either.
        """
        first: list[Widening] = []
        rest: list[Widening] = []
        passed: set[str] = set()
        for step in self.steps:
            if step.extra_bytes <= extra_bytes and passed.isdisjoint(step.names):
                first.append(step)
                extra_bytes -= step.extra_bytes
            else:
                rest.append(step)
                passed.update(step.names)
        return replace(self, steps=(*first, *rest))

    def widths(self, num_steps: int) -> dict[str, Bits]:
        """Return every part's width after so many steps."""
        return {**self.narrowest, **{name: step.bits for step in self.steps[:num_steps] for name in step.names}}

    def extra_bytes(self, num_steps: int) -> int:
        """Return the bytes of so many steps beyond the narrowest width."""
        return sum(step.extra_bytes for step in self.steps[:num_steps])

    def predicted(self, num_steps: int) -> float:
        """Predict the KL, up to a factor that is the same for all."""
        return self.floor + sum(step.gain for step in self.steps[num_steps:])


def smallest_within(order: Order, max_kl: float, measure: Measure, progress: Progress) -> list[Try]:
    """Try allocations for the smallest with a KL of at most `max_kl`, and return all tries, the chosen one last.

    If not even the widest form throughout is good enough, that one is chosen. It is measured only where the steps
    before it do not reach the target.
    """
    tries: dict[int, Try] = {}

    def run(num_steps: int) -> Try:
        size_bytes, metrics = measure(order.widths(num_steps))
        tries[num_steps] = Try(num_steps, size_bytes, metrics["kl_mean"], metrics["top1_agreement"])
        progress.advance_to(len(tries) / _MAX_TRIES)
        return tries[num_steps]

    low, high = (
        run(0),
        None,
    )  # misses the target, and reaches it; None is the widest form, measured only if it is needed
    if low.kl_mean <= max_kl:
        high = low
    while low is not high and len(tries) < _MAX_TRIES - 1:
        if high is not None and high.kl_mean >= max_kl * _CLOSE_ENOUGH:
            break
        between = range(low.num_steps + 1, len(order.steps) if high is None else high.num_steps)
        if not between:
            break
        found = run(_between(order, low, high, max_kl, between))
        low, high = (low, found) if found.kl_mean <= max_kl else (found, high)
    high = high or run(len(order.steps))
    return [*(t for t in tries.values() if t != high), high]


def best_within(order: Order, max_bytes: int, measure: Measure, progress: Progress) -> tuple[Order, list[Try]]:
    """Try the largest allocation that fits; return its order of steps, and all tries, the chosen one last.

    Raises:
        QuantizeError: not even the narrowest one fits.
    """
    tries: list[Try] = []
    num_steps: int | None = 0
    while num_steps is not None and len(tries) < _MAX_TRIES:
        size_bytes, metrics = measure(order.widths(num_steps))
        tries.append(Try(num_steps, size_bytes, metrics["kl_mean"], metrics["top1_agreement"]))
        progress.advance_to(min(1.0, len(tries) / 3))
        if num_steps == 0 and size_bytes > max_bytes:
            raise QuantizeError(
                f"--max-mb {max_bytes / 1e6:g} cannot be reached: the smallest file has {size_bytes / 1e6:.1f} MB; "
                "allow that much"
            )
        if num_steps == 0:
            order = order.filling(max_bytes - size_bytes)
        num_steps = _next_size(order, tries, max_bytes)
    best = min((t for t in tries if t.size_bytes <= max_bytes), key=lambda t: t.kl_mean)
    return order, [*(t for t in tries if t != best), best]


def write_result(target: Path, order: Order, tries: Sequence[Try]) -> None:
    """Write the tries and the allocation that was chosen."""
    (target / TRIES_NAME).write_text(json.dumps([asdict(t) for t in tries]))
    (target / ALLOCATION_NAME).write_text(json.dumps(order.widths(tries[-1].num_steps), sort_keys=True))


def load_tries(folder: Path) -> list[Try]:
    """Read the tries of a search, the chosen one last."""
    return [Try(**fields) for fields in json.loads((folder / TRIES_NAME).read_text())]


def load_allocation(folder: Path) -> Widths:
    """Read every part's width."""
    widths: Widths = json.loads((folder / ALLOCATION_NAME).read_text())
    return widths


def _steps(members: Sequence[Part], damage: Mapping[Bits, float]) -> list[Widening]:
    """Return steps from the narrowest width to the widest, each gaining less a byte than the one before it."""
    names = tuple(part.name for part in members)
    size_bytes = {bits: sum(part.size_bytes(bits) for part in members) for bits in damage}
    widths, steps = sorted(damage), []
    while len(widths) > 1:
        now = widths[0]
        onward = [
            Widening(names, bits, damage[now] - damage[bits], size_bytes[bits] - size_bytes[now]) for bits in widths[1:]
        ]
        steps.append(max(onward, key=lambda step: (step.gain_per_byte, step.bits)))
        widths = [bits for bits in widths if bits >= steps[-1].bits]
    return steps


def _between(order: Order, low: Try, high: Try | None, max_kl: float, inside: range) -> int:
    """Find where the prediction, scaled to both ends on a logarithmic axis, meets the target.

    Where no upper end was measured, the prediction is scaled to the lower one alone.
    """
    begin, real = _log(order.predicted(low.num_steps)), _log(low.kl_mean)
    slope = 1.0
    if high is not None and _log(high.kl_mean) != real:
        slope = (_log(order.predicted(high.num_steps)) - begin) / (_log(high.kl_mean) - real)
    wanted = begin + slope * (_log(max_kl) - real)
    return next((n for n in inside if _log(order.predicted(n)) <= wanted), inside[-1])


def _next_size(order: Order, tries: Sequence[Try], max_bytes: int) -> int | None:
    """Return the most steps that fit, judged from the last try; None if that was tried."""
    last = tries[-1]
    base = last.size_bytes - order.extra_bytes(last.num_steps)
    if last.size_bytes > max_bytes:
        return last.num_steps - 1 if last.num_steps > 0 else None
    if len(tries) > 1:
        return None
    fitting = [n for n in range(1, len(order.steps) + 1) if base + order.extra_bytes(n) <= max_bytes]
    return fitting[-1] if fitting else None


def _log(kl: float) -> float:
    return math.log(max(kl, _SMALLEST_KL))

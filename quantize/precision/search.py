"""Which parts stay int8: the order follows the calibration text, the place where to stop follows the target.

With two widths the best allocation is a prefix of one list: the parts by the KL that int8 saves for each byte it costs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from quantize.evaluation.findings import Try
from quantize.precision.fit import PartErrors
from quantize.precision.parts import Part

TRIES_NAME = "tries.json"
ALLOCATION_NAME = "allocation.json"

_MAX_TRIES = 8
_CLOSE_ENOUGH = 0.97  # of the KL that is allowed
_SMALLEST_KL = 1e-9


Measure = Callable[[Sequence[str]], tuple[int, Mapping[str, float]]]


@dataclass(frozen=True, slots=True)
class Order:
    """The parts, those first that gain most for each byte of int8; and what the calibration text predicts."""

    parts: tuple[Part, ...]
    gains: tuple[float, ...]
    floor: float

    @classmethod
    def create(cls, parts: Sequence[Part], sensitivity: Mapping[str, float], errors: Mapping[str, PartErrors]) -> Order:
        """Order by the KL saved a byte."""

        def gain(part: Part) -> float:
            return sensitivity[part.name] * (1 - errors[part.name].int8_share)

        def cost(part: Part) -> int:
            return part.size_bytes(8) - part.size_bytes(4)

        ordered = tuple(sorted(parts, key=lambda part: (-gain(part) / cost(part), part.name)))
        floor = sum(sensitivity[part.name] * errors[part.name].int8_share for part in parts)
        return cls(ordered, tuple(gain(part) for part in ordered), floor)

    def names(self, num_int8: int) -> list[str]:
        """The parts that are int8."""
        return [part.name for part in self.parts[:num_int8]]

    def extra_bytes(self, num_int8: int) -> int:
        """What they take beyond int4."""
        return sum(part.size_bytes(8) - part.size_bytes(4) for part in self.parts[:num_int8])

    def predicted(self, num_int8: int) -> float:
        """KL, up to a factor that is the same for all."""
        return self.floor + sum(self.gains[num_int8:])


def smallest_within(order: Order, max_kl: float, measure: Measure, report: Callable[[float], None]) -> list[Try]:
    """Try allocations until the smallest with a KL of at most `max_kl` is found; all of them, the chosen one last.

    Where not even int8 throughout is good enough, that one is chosen.
    """
    tries: dict[int, Try] = {}

    def run(num_int8: int) -> Try:
        size_bytes, metrics = measure(order.names(num_int8))
        tries[num_int8] = Try(num_int8, size_bytes, metrics["kl_mean"], metrics["top1_agreement"])
        report(len(tries) / _MAX_TRIES)
        return tries[num_int8]

    low, high = run(0), run(len(order.parts))  # too bad, and good enough
    if low.kl_mean <= max_kl:
        high = low
    while len(tries) < _MAX_TRIES and high.num_int8 - low.num_int8 > 1:
        if max_kl * _CLOSE_ENOUGH <= high.kl_mean <= max_kl:
            break
        found = run(_between(order, low, high, max_kl))
        low, high = (low, found) if found.kl_mean <= max_kl else (found, high)
    return [*(t for t in tries.values() if t != high), high]


def best_within(order: Order, max_bytes: int, measure: Measure, report: Callable[[float], None]) -> list[Try]:
    """Try the largest allocation that fits; all tries, the chosen one last."""
    tries: list[Try] = []
    num_int8: int | None = 0
    while num_int8 is not None and len(tries) < _MAX_TRIES:
        size_bytes, metrics = measure(order.names(num_int8))
        tries.append(Try(num_int8, size_bytes, metrics["kl_mean"], metrics["top1_agreement"]))
        report(min(1.0, len(tries) / 3))
        num_int8 = _next_size(order, tries, max_bytes)
    fitting = [t for t in tries if t.size_bytes <= max_bytes] or [min(tries, key=lambda t: t.size_bytes)]
    best = min(fitting, key=lambda t: t.kl_mean)
    return [*(t for t in tries if t != best), best]


def write_result(target: Path, order: Order, tries: Sequence[Try]) -> None:
    """Keep the tries and the allocation that was chosen."""
    (target / TRIES_NAME).write_text(json.dumps([asdict(t) for t in tries]))
    (target / ALLOCATION_NAME).write_text(json.dumps(sorted(order.names(tries[-1].num_int8))))


def load_tries(folder: Path) -> list[Try]:
    """The tries of a search, the chosen one last."""
    return [Try(**fields) for fields in json.loads((folder / TRIES_NAME).read_text())]


def load_allocation(folder: Path) -> list[str]:
    """The names of the parts that are int8."""
    names: list[str] = json.loads((folder / ALLOCATION_NAME).read_text())
    return names


def _between(order: Order, low: Try, high: Try, max_kl: float) -> int:
    """Where the prediction, bent to go through both ends on a logarithmic scale, meets the target."""
    ends = [_log(order.predicted(t.num_int8)) for t in (low, high)]
    real = [_log(t.kl_mean) for t in (low, high)]
    share = (_log(max_kl) - real[0]) / (real[1] - real[0]) if real[0] != real[1] else 0.5
    wanted = ends[0] + share * (ends[1] - ends[0])
    inside = range(low.num_int8 + 1, high.num_int8)
    return next((n for n in inside if _log(order.predicted(n)) <= wanted), inside[-1])


def _next_size(order: Order, tries: Sequence[Try], max_bytes: int) -> int | None:
    """The most parts that fit, judged from the last try; None where that was tried."""
    last = tries[-1]
    base = last.size_bytes - order.extra_bytes(last.num_int8)
    if last.size_bytes > max_bytes:
        return last.num_int8 - 1 if last.num_int8 > 0 else None
    if len(tries) > 1:
        return None
    fitting = [n for n in range(1, len(order.parts) + 1) if base + order.extra_bytes(n) <= max_bytes]
    return fitting[-1] if fitting else None


def _log(kl: float) -> float:
    return math.log(max(kl, _SMALLEST_KL))

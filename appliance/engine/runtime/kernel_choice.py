"""The choice between Lantern's kernels and the stock operators for a decoder, measured once and kept as a record.

Each has its choice: the kernels are taken for generated tokens if they save a tenth of the time. Prompts then take them
too, since the weights are mapped already, unless the stock operators save a tenth, for which the weights are mapped in
both forms. If the stock operators generate, prompts take the kernels only if that saves a tenth.

Where a row of the stock products has other bits beside other rows, both take the kernels whatever they cost: load must
not change an answer.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import onnxruntime as ort

from appliance.engine.runtime.tuning import (
    NUM_STEPS,
    PROMPT_TOKENS,
    SHORT_PROMPT_TOKENS,
    WORTH_ITS_MEMORY,
    Feeds,
    decoder_feeds,
)

RECORD_NAME = "kernels.json"
_NUM_ROUNDS = 5
_NUM_SLOW_STEPS = 2
_BUDGET_S = 10.0

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Sessions:
    """The sessions of one form of a model."""

    answer: ort.InferenceSession
    prompt: ort.InferenceSession


@dataclass(frozen=True, slots=True)
class Speed:
    """The seconds of a generated token and of a prompt's token, the best of some."""

    token_s: float
    prompt_s: float


@dataclass(frozen=True, slots=True)
class KernelChoice:
    """The operators of a model on this processor; `fault` tells why the kernels could not be tried.

    `family`: the kernels that this processor takes. `stock` and `kernels`: the speeds that decided.
    `stock_rows_are_equal`: as `int4_rows_are_equal` in product.py tells.
    """

    family: str = ""
    for_answers: bool = False
    for_prompts: bool = False
    stock: Speed | None = None
    kernels: Speed | None = None
    fault: str = ""
    stock_rows_are_equal: bool = True

    def describe(self) -> str:
        """Return one line for people: what is in use, and why."""
        if self.fault or self.stock is None or self.kernels is None:
            return f"takes the stock operators: {self.fault or 'nothing was measured'}"
        gains = (self.stock.token_s / self.kernels.token_s, self.stock.prompt_s / self.kernels.prompt_s)
        parts = zip(("generated tokens", "prompts"), (self.for_answers, self.for_prompts), gains, strict=True)
        return (
            "takes "
            + ", ".join(
                f"{'the kernels' if taken else 'the stock operators'} for {name} "
                f"(the kernels have {gain:.2f} times the stock speed)"
                for name, taken, gain in parts
            )
            + ("" if self.stock_rows_are_equal else "; with the stock operators load would change answers here")
        )

    @classmethod
    def read(cls, folder: Path) -> KernelChoice | None:
        """Read the record in a folder; None if there is none, or one that cannot be read."""
        try:
            raw = json.loads((folder / RECORD_NAME).read_text("utf-8"))
            return cls(
                family=str(raw["family"]),
                for_answers=bool(raw["for_answers"]),
                for_prompts=bool(raw["for_prompts"]),
                stock=_speed_of(raw["stock"]),
                kernels=_speed_of(raw["kernels"]),
                fault=str(raw["fault"]),
                stock_rows_are_equal=bool(raw.get("stock_rows_are_equal", True)),
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, folder: Path) -> None:
        """Write it to a folder."""
        (folder / RECORD_NAME).write_text(json.dumps(asdict(self)), "utf-8")


def choose(family: str, stock: Speed, kernels: Speed, *, stock_rows_are_equal: bool = True) -> KernelChoice:
    """Return what each part of a request takes, by the speeds of both forms, or without regard to them."""
    if not stock_rows_are_equal:
        return KernelChoice(family, True, True, stock, kernels, stock_rows_are_equal=False)
    for_answers = _is_worth(kernels.token_s, stock.token_s)
    is_better, is_worse = _is_worth(kernels.prompt_s, stock.prompt_s), _is_worth(stock.prompt_s, kernels.prompt_s)
    for_prompts = not is_worse if for_answers else is_better
    return KernelChoice(family, for_answers, for_prompts, stock, kernels)


def measure_in_turn(
    forms: Sequence[Sessions], *, budget_s: float = _BUDGET_S, clock: Clock = time.perf_counter
) -> list[Speed]:
    """Measure each form in turn, some rounds of each; on a slow board fewer, and shorter ones.

    The best prompt and the best step of each form count, since other work can only slow them down.
    """
    for form in forms:
        _round(form, SHORT_PROMPT_TOKENS, 1, clock)
    begin_s = clock()
    rounds = [[_round(form, SHORT_PROMPT_TOKENS, _NUM_SLOW_STEPS, clock) for form in forms]]
    scale = max(PROMPT_TOKENS / SHORT_PROMPT_TOKENS, NUM_STEPS / _NUM_SLOW_STEPS)
    if (clock() - begin_s) * scale * _NUM_ROUNDS <= budget_s:
        rounds = [[_round(form, PROMPT_TOKENS, NUM_STEPS, clock) for form in forms] for _ in range(_NUM_ROUNDS)]
    return [
        Speed(min(s.token_s for s in speeds), min(s.prompt_s for s in speeds)) for speeds in zip(*rounds, strict=True)
    ]


def _round(form: Sessions, num_tokens: int, num_steps: int, clock: Clock) -> Speed:
    prompt_s = _run_s(form.prompt, decoder_feeds(form.prompt, num_past=0, num_new=num_tokens), clock)
    step = decoder_feeds(form.answer, num_past=PROMPT_TOKENS, num_new=1)
    return Speed(min(_run_s(form.answer, step, clock) for _ in range(num_steps)), prompt_s / num_tokens)


def _run_s(session: ort.InferenceSession, feeds: Feeds, clock: Clock) -> float:
    begin_s = clock()
    session.run(None, feeds)
    return clock() - begin_s


def _is_worth(candidate_s: float, other_s: float) -> bool:
    return candidate_s <= other_s * (1 - WORTH_ITS_MEMORY)


def _speed_of(raw: dict[str, float] | None) -> Speed | None:
    return None if raw is None else Speed(float(raw["token_s"]), float(raw["prompt_s"]))

"""The findings of a run beyond the manifest's figures: plain records for the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from quantize.evaluation.distribution import Distribution


@dataclass(frozen=True, slots=True)
class Try:
    """One allocation that was built and measured: the first `num_steps` steps of the order to wider forms."""

    num_steps: int
    size_bytes: int
    kl_mean: float
    top1_agreement: float


@dataclass(frozen=True, slots=True)
class AnswerPair:
    """Both models' answers to one question; right or wrong, or None if that cannot be checked."""

    question: str
    before: str
    after: str
    before_is_right: bool | None = None
    after_is_right: bool | None = None


@dataclass(frozen=True, slots=True)
class Findings:
    """All findings; a field is empty if the scheme or the architecture yields none.

    `tries` holds the chosen one last; `sensitivity` the KL that int4 costs each part; `widths` the bits of each.
    """

    tries: tuple[Try, ...] = ()
    sensitivity: Mapping[str, float] = field(default_factory=dict)
    widths: Mapping[str, int] = field(default_factory=dict)
    distribution: Distribution | None = None
    answers: tuple[AnswerPair, ...] = ()

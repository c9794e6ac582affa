"""The number of threads, spinning or not: measured once on this board with the model itself, and kept beside it.

It knows a graph by its inputs only, and measures a short request: a prompt of 128 tokens and as many generated ones, or
short and long texts for an encoder. Each candidate's best round counts, since other work can only slow it down.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from appliance.engine.graphs.slot_arrays import STATES
from appliance.host.cores import usable_cores

_NUM_ROUNDS = 3
NUM_STEPS = 12
PROMPT_TOKENS = 128
SHORT_PROMPT_TOKENS = 16
_BUDGET_S = 30.0
_PROMPT_BUDGET_S = 10.0
_SLOW_S = 120.0  # of a request: about a token a second
_TEXTS = ((1, 32), (8, 64))  # an encoder's: how many, how long
# A graph for prompts has weights of its own; a smaller share of time does not pay for them.
WORTH_ITS_MEMORY = 0.1
_WORTH_A_CORE = 0.03  # less than this share of time is not worth another thread, or one that spins

Session = Callable[[int, bool], ort.InferenceSession]
Feeds = dict[str, NDArray[np.generic]]


@dataclass(frozen=True, slots=True)
class Tuning:
    """The threads of one session; spinning ones stay awake between operators."""

    num_threads: int
    spinning: bool

    def with_settings(self, num_threads: int | None, spinning: bool | None) -> Tuning:
        """Return the same with what the settings override."""
        chosen = self if num_threads is None else replace(self, num_threads=num_threads)
        return chosen if spinning is None else replace(chosen, spinning=spinning)

    @classmethod
    def default(cls) -> Tuning:
        """Return the tuning before anything was measured."""
        return cls(usable_cores(), spinning=True)

    @classmethod
    def read(cls, path: Path) -> Tuning:
        """Read a kept tuning; the default if there is none."""
        try:
            raw = json.loads(path.read_text("ascii"))
            return cls(int(raw["num_threads"]), bool(raw["spinning"]))
        except (OSError, ValueError, KeyError, TypeError):
            return cls.default()

    def write(self, path: Path) -> None:
        """Write it to a file."""
        path.write_text(json.dumps(asdict(self)), "ascii")


def candidates(num_cores: int) -> list[Tuning]:
    """Return the candidates, those with the fewest threads first."""
    threads = sorted({1, max(1, num_cores // 2), max(1, num_cores - 1), num_cores})
    return [Tuning(n, spinning) for n in threads for spinning in ((False, True) if n > 1 else (False,))]


def choose(measured: Sequence[tuple[Tuning, float]]) -> Tuning:
    """Return the fastest of (candidate, seconds), or an earlier candidate that is about as fast."""
    best_s = min(seconds for _, seconds in measured)
    return next(tuning for tuning, seconds in measured if seconds <= best_s * (1 + _WORTH_A_CORE))


def tune(session: Session, num_cores: int, *, budget_s: float = _BUDGET_S, default: Tuning | None = None) -> Tuning:
    """Try the candidates in turn, some rounds of each; `session(num_threads, spinning)` loads the model.

    The first answer of a new device waits for it: after `budget_s` no further round begins, and if an estimate, or one
    request of the first candidate, shows that not even one round of all would be over by then, `default` is taken.
    """
    end_s = time.monotonic() + budget_s
    greedy = candidates(num_cores)[-1]
    if guess_s(session(greedy.num_threads, greedy.spinning)) * len(candidates(num_cores)) > budget_s:
        return default or Tuning.default()
    tried = [(tuning, session(tuning.num_threads, tuning.spinning)) for tuning in candidates(num_cores)]
    best_s = dict.fromkeys((tuning for tuning, _ in tried), float("inf"))
    for _ in range(_NUM_ROUNDS):
        for tuning, loaded in tried:
            begin_s = time.monotonic()
            best_s[tuning] = min(best_s[tuning], _request_s(loaded))
            if tuning is tried[0][0] and time.monotonic() + (time.monotonic() - begin_s) * (len(tried) - 1) > end_s:
                return default or Tuning.default() if float("inf") in best_s.values() else choose(list(best_s.items()))
    return choose(list(best_s.items()))


def can_measure_prompts(guessed_s: float) -> bool:
    """Return True if measuring a second graph takes an acceptable time; `guessed_s` is the time of a request."""
    return guessed_s <= _SLOW_S


def prompt_is_faster(
    session: ort.InferenceSession,
    prompt_session: ort.InferenceSession,
    *,
    gain: float = WORTH_ITS_MEMORY,
    budget_s: float = _PROMPT_BUDGET_S,
) -> bool:
    """Return True if the second graph saves the share `gain` of the time: the best of some rounds of each, in turn.

    If a short prompt shows that the rounds would take longer than `budget_s`, it alone decides.
    """
    pair = (session, prompt_session)
    for loaded in pair:
        _prompt_s(loaded, 1)
    best_s = [_prompt_s(loaded, SHORT_PROMPT_TOKENS) for loaded in pair]
    if sum(best_s) * PROMPT_TOKENS / SHORT_PROMPT_TOKENS * _NUM_ROUNDS <= budget_s:
        rounds = [[_prompt_s(loaded, PROMPT_TOKENS) for loaded in pair] for _ in range(_NUM_ROUNDS)]
        best_s = [min(seconds) for seconds in zip(*rounds, strict=True)]
    return best_s[1] <= best_s[0] * (1 - gain)


def _prompt_s(session: ort.InferenceSession, num_tokens: int) -> float:
    feeds = decoder_feeds(session, num_past=0, num_new=num_tokens)
    begin_s = time.perf_counter()
    session.run(None, feeds)
    return time.perf_counter() - begin_s


def guess_s(session: ort.InferenceSession) -> float:
    """Estimate the seconds of a request from a run of a single token, or of one short text."""
    if "seqlens_k" in {i.name for i in session.get_inputs()}:
        feeds, times = decoder_feeds(session, num_past=PROMPT_TOKENS, num_new=1), PROMPT_TOKENS
    else:
        feeds, times = _encoder_feeds(session, *_TEXTS[0]), math.prod(_TEXTS[-1]) // math.prod(_TEXTS[0])
    begin_s = time.perf_counter()
    session.run(None, feeds)
    return times * (time.perf_counter() - begin_s)


def _request_s(session: ort.InferenceSession) -> float:
    """Measure the seconds of a short request."""
    total_s = 0.0
    for feeds, num_runs, weight in _loads(session):
        session.run(None, feeds)
        begin_s = time.perf_counter()
        for _ in range(num_runs):
            session.run(None, feeds)
        total_s += weight * (time.perf_counter() - begin_s) / num_runs
    return total_s


def _loads(session: ort.InferenceSession) -> Iterator[tuple[Feeds, int, int]]:
    """Yield feeds, how often to run them, and the number of such runs in a request."""
    names = {i.name for i in session.get_inputs()}
    if "seqlens_k" in names:
        yield decoder_feeds(session, num_past=0, num_new=PROMPT_TOKENS), 1, 1
        yield decoder_feeds(session, num_past=PROMPT_TOKENS, num_new=1), NUM_STEPS, PROMPT_TOKENS
        return
    for batch, length in _TEXTS:
        yield _encoder_feeds(session, batch, length), 2, 1


def _encoder_feeds(session: ort.InferenceSession, batch: int, length: int) -> Feeds:
    feeds: Feeds = {i.name: np.zeros((batch, length), np.int64) for i in session.get_inputs()}
    feeds["input_ids"] = np.ones((batch, length), np.int64)
    feeds["attention_mask"] = np.ones((batch, length), np.int64)
    return feeds


def decoder_feeds(session: ort.InferenceSession, *, num_past: int, num_new: int) -> Feeds:
    """Return the inputs of a step of a decoder: so many new tokens after so many that it has computed."""
    capacity = 2 * PROMPT_TOKENS
    feeds: Feeds = {
        "input_ids": np.ones((1, num_new), np.int64),
        "seqlens_k": np.array([num_past + num_new - 1], np.int32),
        "total_sequence_length": np.array(num_past + num_new, np.int32),
        "logit_rows": np.array([num_new - 1], np.int64),
    }
    for known in session.get_inputs():
        if known.name.startswith("past_key_values."):
            dtype = np.int8 if known.type == "tensor(int8)" else np.float32
            feeds[known.name] = np.zeros((1, known.shape[1], capacity, known.shape[3]), dtype)
        elif known.name.startswith(STATES):
            feeds[known.name] = np.zeros((1, *known.shape[1:]), np.float32)
    return feeds

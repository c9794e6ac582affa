"""The greedy answers of a float decoder that is too large to be loaded: those of another form of it, corrected.

The float graph reads all that the other form has said at once, a block of layers at a time. Its own token replaces the
first one that it would not have said, and the other form goes on from there, until nothing is left to correct. That is
speculative decoding with whole answers as drafts (Leviathan, Kalman and Matias 2023, arXiv:2211.17192).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from quantize.evaluation.hidden_states import HiddenStates
from quantize.progress import SILENT

GoOn = Callable[[Sequence[Sequence[int]], int], list[list[int]]]


def corrected(
    float_folder: Path,
    prompts: Sequence[Sequence[int]],
    drafts: Sequence[Sequence[int]],
    stops: frozenset[int],
    go_on: GoOn,
    *,
    max_tokens: int,
) -> list[list[int]]:
    """Return what the float graph answers to each prompt: at most `max_tokens` tokens, without the stop token.

    `drafts` are such answers of another form, and `go_on` makes more of them: for prompts, with so many tokens at most.
    """
    answers = [list(draft) for draft in drafts]
    waiting = list(range(len(prompts)))
    while waiting:
        texts = [np.array([*prompts[i], *answers[i]], np.int64) for i in waiting]
        head = HiddenStates.of(float_folder, texts, SILENT).head()
        changed = []
        for at, i in enumerate(waiting):
            first = len(prompts[i]) - 1
            said = head(at, range(first, first + min(len(answers[i]) + 1, max_tokens))).argmax(axis=1).tolist()
            place = next((j for j, token in enumerate(said) if answers[i][j : j + 1] != [token]), None)
            if place is None:
                continue
            del answers[i][place:]
            if said[place] not in stops:
                answers[i].append(said[place])
                changed.append(i)
        waiting = [i for i in changed if len(answers[i]) < max_tokens]
        if waiting:
            longest = max_tokens - min(len(answers[i]) for i in waiting)
            more = go_on([[*prompts[i], *answers[i]] for i in waiting], longest)
            for i, tokens in zip(waiting, more, strict=True):
                answers[i] = [*answers[i], *tokens][:max_tokens]
    return answers

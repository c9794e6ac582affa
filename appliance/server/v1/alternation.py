"""Conversations for the templates that refuse some: roles in turn, one call in a message, short ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from appliance.server.v1.turn import Call, Turn

_SEPARATOR = "\n\n"


def alternating(turns: Sequence[Turn]) -> list[Turn]:
    """Return the turns with neighbours of one role merged, so that users and assistants alternate.

    Templates do not count calls and their results: a question that follows one gets an empty answer before it.
    """
    merged: list[Turn] = []
    is_answered = True
    for turn in turns:
        last = merged[-1] if merged else None
        if last is not None and turn.role == last.role and turn.role != "tool" and not last.calls:
            is_answered = is_answered and not turn.calls
            merged[-1] = _joined(last, turn)
            continue
        if turn.role == "user":
            if not is_answered:
                merged.append(Turn("assistant"))
            is_answered = False
        elif turn.role == "assistant" and not turn.calls:
            is_answered = True
        merged.append(turn)
    return merged


def one_call_each(turns: Sequence[Turn]) -> list[Turn]:
    """Return the turns with each call in a message of its own, its results behind it."""
    split: list[Turn] = []
    results: dict[str | None, list[Turn]] = {}
    for i, turn in enumerate(turns):
        if turn.role == "tool" and turn.call_id in results:
            continue
        results = {}
        if len(turn.calls) < 2:
            split.append(turn)
            continue
        results = {call.id: [] for call in turn.calls}
        for following in turns[i + 1 :]:
            if following.role != "tool" or following.call_id not in results:
                break
            results[following.call_id].append(following)
        head = turn
        for call in turn.calls:
            split += [replace(head, calls=(call,)), *results[call.id]]
            head = Turn("assistant")
    return split


def with_short_ids(turns: Sequence[Turn]) -> list[Turn]:
    """Return the turns with ids of nine digits; calls and results without an id get one."""
    ids: dict[str, str] = {}
    num_calls = 0
    numbered = []
    for turn in turns:
        calls: list[Call] = []
        for call in turn.calls:
            num_calls += 1
            short = f"{num_calls:09d}"
            if call.id is not None:
                ids[call.id] = short
            calls.append(replace(call, id=short))
        if turn.role == "tool":
            latest = f"{max(num_calls, 1):09d}"
            numbered.append(replace(turn, call_id=latest if turn.call_id is None else ids.get(turn.call_id, latest)))
        else:
            numbered.append(replace(turn, calls=tuple(calls)))
    return numbered


def _joined(first: Turn, second: Turn) -> Turn:
    thoughts = [turn.reasoning for turn in (first, second) if turn.reasoning is not None]
    return replace(
        first,
        content=_SEPARATOR.join(turn.content for turn in (first, second) if turn.content),
        reasoning=_SEPARATOR.join(thoughts) if thoughts else None,
        calls=first.calls + second.calls,
    )

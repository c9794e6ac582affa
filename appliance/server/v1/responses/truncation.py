"""`truncation: auto`: the oldest turns are left out, whole, until the prompt fits."""

from __future__ import annotations

from collections.abc import Sequence

from appliance.errors import ContextLengthError
from appliance.models import ChatModel
from appliance.server.v1.chat.prompt import ChatPlan, plan_chat
from appliance.server.v1.chat.wire import ChatRequest, Message

_ROOM = 4  # of a prompt that was cut, at least a quarter of the context is for the answer


def fitting(model: ChatModel, chat: ChatRequest) -> tuple[ChatRequest, ChatPlan]:
    """Return the request with as many of the last turns as fit, and its plan.

    A turn is a user message with all that follows it. Neither instructions nor the last turn are left out.

    Raises:
        ContextLengthError: the last turn alone does not fit.
    """
    try:
        return chat, plan_chat(model, chat)
    except ContextLengthError:
        least, most = 1, num_turns(chat.messages) - 1
        if most < 1:
            raise
    room = model.engine.capacity // _ROOM
    if chat.max_completion_tokens is not None:
        room = min(room, chat.max_completion_tokens)
    best: tuple[ChatRequest, ChatPlan] | None = None
    is_roomy = False
    while least <= most:
        dropped = (least + most) // 2
        shorter = chat.model_copy(update={"messages": without_turns(chat.messages, dropped)})
        try:
            plan = plan_chat(model, shorter)
        except ContextLengthError:
            least = dropped + 1
            continue
        if len(plan.prompt) + room <= model.engine.capacity:
            best, is_roomy = (shorter, plan), True
            most = dropped - 1
        else:
            best = best if is_roomy else (shorter, plan)
            least = dropped + 1
    if best is None:
        last = without_turns(chat.messages, num_turns(chat.messages) - 1)
        plan_chat(model, chat.model_copy(update={"messages": last}))
        raise AssertionError("a prompt that fits was not found")
    return best


def num_turns(messages: Sequence[Message]) -> int:
    """Return the number of turns; the part before the first user message is one if it is not instructions only."""
    return _turns(messages)[-1] + 1 if messages else 0


def without_turns(messages: Sequence[Message], num_dropped: int) -> list[Message]:
    """Return the messages without the first turns; instructions stay, wherever they stand."""
    turns = _turns(messages)
    return [
        message
        for message, turn in zip(messages, turns, strict=True)
        if turn >= num_dropped or message.role in {"system", "developer"}
    ]


def _turns(messages: Sequence[Message]) -> list[int]:
    """Return the number of each message's turn, from 0."""
    turns: list[int] = []
    turn, is_begun = 0, False
    for message in messages:
        turn += message.role == "user" and is_begun
        is_begun = is_begun or message.role not in {"system", "developer"}
        turns.append(turn)
    return turns

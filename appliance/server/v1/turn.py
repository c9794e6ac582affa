"""One turn of a conversation, without the wire of any route."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class Call:
    """A call that the model made; `arguments` is any text, for clients send back what was cut, too."""

    name: str
    arguments: str = ""
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    """A message: `reasoning` and `calls` are the assistant's, `call_id` tells which call a tool has answered."""

    role: Role
    content: str = ""
    reasoning: str | None = None
    calls: tuple[Call, ...] = ()
    call_id: str | None = None
    name: str | None = None

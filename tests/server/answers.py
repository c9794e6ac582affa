"""Real answers, held against the types that the document describes them with."""

from __future__ import annotations

from typing import TypeVar

from pydantic import TypeAdapter

T = TypeVar("T")


def read_answer(kind: type[T], text: str) -> T:
    """Parse an answer; a field too many, a missing one or one of another type fails the test."""
    return TypeAdapter(kind).validate_json(text)

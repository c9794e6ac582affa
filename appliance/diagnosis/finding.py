"""One thing that was looked at, and what to do about it."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Level(enum.StrEnum):
    """How bad it is."""

    GOOD = "good"
    NOTE = "note"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found about a subject; a remedy belongs to everything that is not good."""

    subject: str
    level: Level
    text: str
    remedy: str = ""


def good(subject: str, text: str) -> Finding:
    """Nothing to do."""
    return Finding(subject, Level.GOOD, text)


def note(subject: str, text: str, remedy: str) -> Finding:
    """It works, and could be better."""
    return Finding(subject, Level.NOTE, text, remedy)


def bad(subject: str, text: str, remedy: str) -> Finding:
    """It does not work, or will soon not."""
    return Finding(subject, Level.BAD, text, remedy)

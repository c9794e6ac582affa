"""One thing that was looked at, and what to do about it."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Level(enum.StrEnum):
    """The severity of a finding."""

    GOOD = "good"
    NOTE = "note"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    """A finding about a subject; all but good ones have a remedy."""

    subject: str
    level: Level
    text: str
    remedy: str = ""


def good(subject: str, text: str) -> Finding:
    """Report something that needs no action."""
    return Finding(subject, Level.GOOD, text)


def note(subject: str, text: str, remedy: str) -> Finding:
    """Report something that works and could be better."""
    return Finding(subject, Level.NOTE, text, remedy)


def bad(subject: str, text: str, remedy: str) -> Finding:
    """Report something that does not work, or soon will not."""
    return Finding(subject, Level.BAD, text, remedy)

"""The figures of a run of boots, told when they are measured, and once more as a table at the end."""

from __future__ import annotations

from images.workplace import say

_TOLD: list[tuple[str, str]] = []


def tell(name: str, value: str) -> None:
    """Tell one figure."""
    say(f"{name}: {value}")
    _TOLD.append((name, value))


def table() -> str:
    """Return all figures so far as Markdown; empty without any."""
    if not _TOLD:
        return ""
    return "\n".join(["| figure | measured |", "|---|---|", *(f"| {name} | {value} |" for name, value in _TOLD)])

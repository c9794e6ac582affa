"""The kind of each test, inferred from its fixtures: its markers, and its place in a parallel run."""

from __future__ import annotations

import pytest

MARKERS = {
    "models": {"starter_home"},
    "netns": {"lan", "house", "home_lan"},
    "browser": {"browser"},
    "clients": {"wants_clients"},
    "containers": {"container"},
    "images": {"deb", "twin", "image", "tree"},
    "boots": {"board", "older"},
}
"""Fixtures, each of which gives a test the marker; a fixture that another fixture asks for counts too."""

_SHORT_DEADLINES = ("netns", "containers", "boots")
"""Kinds in which a device has seconds to answer: they run alone, except those of images, which wait for minutes."""

_DEAREST_FIRST = ("images", "models")


def mark(item: pytest.Item) -> None:
    """Add the markers that follow from the test's fixtures."""
    fixtures = set(getattr(item, "fixturenames", ()))
    for name, sources in MARKERS.items():
        if fixtures & sources:
            item.add_marker(name)
    if any(_is(item, name) for name in _SHORT_DEADLINES) and not _is(item, "images"):
        item.add_marker("alone")


def arrange(items: list[pytest.Item]) -> list[pytest.Item]:
    """Return the tests with the dearest groups first, so that no worker is left with one of them at the end."""
    return sorted(items, key=_rank)


def _rank(item: pytest.Item) -> int:
    return next((rank for rank, name in enumerate(_DEAREST_FIRST) if _is(item, name)), len(_DEAREST_FIRST))


def _is(item: pytest.Item, name: str) -> bool:
    return item.get_closest_marker(name) is not None

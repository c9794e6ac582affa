"""Nothing waits, expires or is compared by the wall clock, which on a board without a battery jumps by decades."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2] / "appliance"

SHOWN_ONLY = {
    "claiming.py": "when somebody claimed the device, for people",
    "diagnosis/board.py": "whether the clock is right",
    "image/": "what is written down on the device's screen and log",
    "keystore.py": "when a key was made, for people",
    "remote/known_devices.py": "when a device was first seen, for people",
    "safe_mode.py": "OpenAI's field `created`",
    "server/": "OpenAI's field `created`",
    "service.py": "OpenAI's field `created`",
    "text/template.py": "the date that some chat templates write into a prompt",
    "updates.py": "when an update came, for people",
}
"""Where the time of day is read, and what for."""

WALL = {("time", "time"), ("time", "time_ns"), ("datetime", "now"), ("datetime", "utcnow"), ("datetime", "today")}


def uses(path: Path) -> Iterator[int]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Attribute):
            owner = node.value
            name = owner.id if isinstance(owner, ast.Name) else owner.attr if isinstance(owner, ast.Attribute) else ""
            if (name, node.attr) in WALL:
                yield node.lineno


def test_the_time_of_day_is_only_shown() -> None:
    found = {f"{path.relative_to(ROOT)}:{line}" for path in ROOT.rglob("*.py") for line in uses(path)}
    assert not {place for place in found if not place.startswith(tuple(SHOWN_ONLY))}
    server = {place for place in found if place.startswith("server/")}
    assert {place.partition(":")[0] for place in server} <= {"server/chat_response.py", "server/completion_response.py"}


def test_every_timeout_of_the_server_is_monotonic() -> None:
    text = "\n".join(p.read_text("utf-8") for p in (ROOT / "server").rglob("*.py"))
    assert "time.monotonic()" in text

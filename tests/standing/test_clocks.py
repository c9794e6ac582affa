"""Nothing waits, expires or is compared by the wall clock, which on a board without a battery jumps by decades."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2] / "appliance"

SHOWN_ONLY = {
    "access/claim.py": "when somebody claimed the device, for people",
    "diagnosis/": "whether the clock is right, and what browsers say of the certificate's dates",
    "system/": "what is written down on the device's screen and log",
    "access/keyring.py": "when a key was last used, for people",
    "access/keystore.py": "when a key was made, for people",
    "remote/known_devices.py": "when a device was first seen, for people",
    "service/composition.py": "OpenAI's field `created`",
    "server/": "OpenAI's field `created`",
    "text/template.py": "the date that some chat templates write into a prompt",
    "system/incoming_update.py": "when an update came, for people",
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
    assert {place.partition(":")[0] for place in server} <= {
        "server/v1/responses/answer.py",
        "server/v1/conversations.py",
        "server/v1/chat/writer.py",
        "server/v1/completions/writer.py",
        "server/http/request_log.py",  # when a request ended, for people
    }


def test_every_timeout_of_the_server_is_monotonic() -> None:
    text = "\n".join(p.read_text("utf-8") for p in (ROOT / "server").rglob("*.py"))
    assert "time.monotonic()" in text

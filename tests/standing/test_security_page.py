"""What SECURITY.md names as a proof is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_proof_on_the_security_page_exists() -> None:
    page = (ROOT / "SECURITY.md").read_text("utf-8")
    tests = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"def (test_\w+)", path.read_text("utf-8"))
    }
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    named = set(re.findall(r"`([^`]+)`", page))
    assert not {name for name in named if re.fullmatch(r"test_\w+", name)} - tests
    assert not {name for name in named if name.startswith("tests/") and not (ROOT / name).exists()}
    assert not {name.split()[1] for name in named if re.match(r"make [a-z-]+", name)} - targets


def test_every_row_of_its_tables_names_a_proof() -> None:
    page = (ROOT / "SECURITY.md").read_text("utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| ") and not line.startswith(("| threat", "| case"))]
    assert len(rows) > 30
    for row in rows:
        assert re.search(r"`(test_\w+|tests/[\w/.]+|make [\w-]+)`", row.rsplit("|", 2)[1]), row

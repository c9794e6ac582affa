"""Proofs that docs/threat-model.md names: each is in the tree."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/threat-model.md"


def test_every_proof_on_the_security_page_exists() -> None:
    page = PAGE.read_text("utf-8")
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


def test_every_threat_and_promise_names_a_proof() -> None:
    chapters = re.split(r"^## ", PAGE.read_text("utf-8"), flags=re.MULTILINE)
    sections = [section for chapter in chapters for section in chapter.split("\n### ")[1:]]
    assert len(sections) > 30
    for section in sections:
        assert re.search(r"^Proof: `(test_\w+|tests/[\w/.]+|make [\w-]+)`", section, re.MULTILINE), section


def test_the_policy_links_the_threat_model() -> None:
    assert "(docs/threat-model.md)" in (ROOT / "SECURITY.md").read_text("utf-8")

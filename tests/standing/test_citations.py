"""Pages and paths that the tree names are in the tree."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOP = ("appliance", "docs", "examples", "images", "quantize", "systemd", "tests")
TEXT = {".md", ".py", ".toml", ".sh", ".yaml", ".yml", ".service", ".socket", ".css", ".txt", ".conf", ""}

LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)[^)]*\)")
QUOTED = re.compile(r"`([\w.-]+(?:/[\w.-]+)*/?)`")
PAGE = re.compile(r"(?<![\w/.*}{-])([\w.-]+(?:/[\w.-]+)*\.md)\b")


def texts() -> Iterator[tuple[Path, str]]:
    """Yield each file of the tree that is text, with its content."""
    places = [path for path in ROOT.iterdir() if path.is_file()]
    places += [path for top in TOP for path in (ROOT / top).rglob("*") if path.is_file()]
    for path in places:
        if path.suffix in TEXT and "__pycache__" not in path.parts:
            try:
                yield path, path.read_text("utf-8")
            except UnicodeDecodeError:
                continue


def cited(path: Path, text: str) -> Iterator[str]:
    """Yield the pages and paths that a file names."""
    if path.suffix == ".md":
        yield from LINK.findall(text)
    yield from PAGE.findall(text)
    yield from (name for name in QUOTED.findall(text) if "/" in name and name.partition("/")[0] in TOP)


def is_there(name: str, path: Path) -> bool:
    """Return True for a path that exists, seen from the root, from docs, from the citing file or from its parent."""
    return any((folder / name).exists() for folder in (ROOT, ROOT / "docs", path.parent, path.parent.parent))


def test_no_file_cites_one_that_is_not_in_the_tree() -> None:
    missing = {
        f"{path.relative_to(ROOT)}: {name}"
        for path, text in texts()
        if path != Path(__file__)
        for name in cited(path, text)
        if not is_there(name, path)
    }
    assert not missing


def test_a_page_that_is_absent_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    text = "See [the page](absent.md), `tests/absent/`, ABSENT.md, [a site](https://example.org/x.md) and [below](#x)."
    assert {name for name in cited(page, text) if not is_there(name, page)} == {
        "absent.md",
        "tests/absent/",
        "ABSENT.md",
    }

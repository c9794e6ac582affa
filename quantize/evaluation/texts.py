"""Text that every machine has: Python's own language reference and sources. Evaluation and calibration share none."""

from __future__ import annotations

import sysconfig
from pathlib import Path
from pydoc_data.topics import topics

DESCRIPTION = "8 topics of Python's language reference and 2 modules of its library"

_HELD_OUT_TOPICS = frozenset({"assert", "binary", "class", "compound", "exceptions", "naming", "objects", "strings"})
_HELD_OUT_MODULES = ("textwrap", "statistics")
_MODULES = ("argparse", "calendar", "csv", "heapq", "json/decoder", "pathlib", "random", "shlex", "tempfile", "uuid")
_PASSAGE_WORDS = 12
_MODULE_SKIP_CHARS = 2000  # licences and imports come first
_MODULE_CHARS = 8000


def held_out_prose() -> str:
    """Return prose for evaluation."""
    return " ".join(_words(topics[name]) for name in sorted(_HELD_OUT_TOPICS) if name in topics)


def held_out_code() -> str:
    """Return source code for evaluation."""
    return "\n".join(_source(name) for name in _HELD_OUT_MODULES)


def prose() -> list[str]:
    """Return prose for calibration, one text a topic, without topics that repeat a passage of the held-out ones."""
    held_out = _passages(held_out_prose())
    return [text for _, topic in sorted(topics.items()) if held_out.isdisjoint(_passages(text := _words(topic)))]


def code() -> list[str]:
    """Return source code for calibration, one text a module."""
    return [_source(name) for name in _MODULES]


def snippets(texts: list[str], lengths: list[int], step: int) -> list[str]:
    """Cut pieces of the given numbers of words from all over the texts, in a fixed order."""
    words = " ".join(texts).split()
    return [
        " ".join(words[(at := index * step % max(1, len(words) - length)) : at + length])
        for index, length in enumerate(lengths)
    ]


def _passages(text: str) -> set[tuple[str, ...]]:
    words = text.split()
    return {tuple(words[at : at + _PASSAGE_WORDS]) for at in range(max(1, len(words) - _PASSAGE_WORDS + 1))}


def _words(text: str) -> str:
    return " ".join(text.split())


def _source(module: str) -> str:
    path = Path(sysconfig.get_path("stdlib")) / f"{module}.py"
    return path.read_text(encoding="utf-8", errors="replace")[_MODULE_SKIP_CHARS:][:_MODULE_CHARS]

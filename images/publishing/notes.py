"""The notes of a release: the changelog's section, the way to verify the files, and what was tried."""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from images.publishing.checksums import VERIFYING
from images.workplace import ROOT

CHANGELOG = ROOT / "CHANGELOG.md"
_BITS = (
    "The packages and the wheel are the same to the bit from any two builds of this commit, as are the card and the "
    "update's system; the update's signature is not. To verify what you downloaded:"
)


@dataclass(frozen=True, slots=True)
class Entry:
    """A version's section of the changelog."""

    version: str
    date: datetime.date
    text: str


def changelog_entry(version: str, changelog: str) -> Entry:
    """Return the section of a version, which has to be the first one.

    Raises:
        SystemExit: there is none, it has no date, another version comes before it, or it is empty.
    """
    heads = list(re.finditer(r"^## (.+)$", changelog, re.MULTILINE))
    if not heads:
        raise SystemExit("CHANGELOG.md has no version.")
    first = re.fullmatch(r"(\d+(?:\.\d+)*) \((\d{4}-\d\d-\d\d)\)", heads[0][1])
    if first is None or first[1] != version:
        raise SystemExit(f"CHANGELOG.md begins with {heads[0][1]!r}; a release begins with '{version} (YYYY-MM-DD)'.")
    end = heads[1].start() if len(heads) > 1 else len(changelog)
    text = changelog[heads[0].end() : end].strip()
    if not text:
        raise SystemExit(f"CHANGELOG.md says nothing of {version}.")
    return Entry(version, datetime.date.fromisoformat(first[2]), text)


def release_notes(entry: Entry, commit: str, files: Sequence[Path], holes: str, tried: str) -> str:
    """Return the notes as Markdown."""
    rows = [f"| `{path.name}` | {path.stat().st_size / 1e6:.1f} |" for path in sorted(files)]
    # One level down: the changelog's own headings stand below a version.
    changes = re.sub(r"^###", "##", entry.text, flags=re.MULTILINE)
    parts = [
        f"# Lantern {entry.version}",
        f"Released on {entry.date}, from commit {commit}.",
        changes,
        "## Files",
        "| file | MB |\n|---|---|\n" + "\n".join(rows),
        _BITS,
        "```sh\n" + "\n".join(VERIFYING) + "\n```",
        "## Known holes",
        holes,
        tried.strip(),
    ]
    return "\n\n".join(parts) + "\n"

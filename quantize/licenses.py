"""The licence of the weights: its name, its text, and the acceptance that some need before a build."""

from __future__ import annotations

from pathlib import Path

from appliance.errors import QuantizeError
from quantize.recipe import Recipe

UNKNOWN = "unknown"

_TEXTS = Path(__file__).parent / "licenses"
# Licences that let everyone distribute the weights; any other one has terms of its own.
_OPEN = frozenset(
    {"apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "unlicense", UNKNOWN}
)


def license_of(recipe: Recipe, checkpoint: Path) -> str:
    """Return the licence that the recipe names, else the one of the checkpoint's README, else `UNKNOWN`."""
    return recipe.license or _of_readme(checkpoint) or UNKNOWN


def must_be_accepted(license_id: str) -> bool:
    """Tell if this licence has terms that bind users or distributors of the bundle."""
    return license_id.lower() not in _OPEN


def check_accepted(recipe: Recipe, license_id: str, *, accepted: bool) -> None:
    """Refuse before the work begins if a licence has to be accepted first.

    Raises:
        QuantizeError: the licence has terms of its own that are not accepted.
    """
    if must_be_accepted(license_id) and not accepted:
        raise QuantizeError(
            f"{recipe.source.uri} comes under the licence {license_id!r}, which has terms of its own: "
            "read them where the checkpoint is published, then add --accept-license"
        )


def license_text(license_id: str, checkpoint: Path, license_file: Path | None) -> bytes | None:
    """Return the text that the source names or has beside the weights, else the standard one.

    A wheel's own licence is that of its code.
    """
    if license_file is not None:
        return license_file.read_bytes()
    for path in sorted(checkpoint.glob("LICENSE*")):
        if path.is_file():
            return path.read_bytes()
    standard = {path.stem.lower(): path for path in _TEXTS.glob("*.txt")}.get(license_id.lower())
    return standard.read_bytes() if standard is not None else None


def _of_readme(checkpoint: Path) -> str | None:
    path = checkpoint / "README.md"
    if not path.is_file():
        return None
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    if not lines or lines[0].strip() != "---":
        return None
    for line in lines[1:]:
        if line.strip() == "---":
            return None
        if line.startswith("license:"):
            return line.removeprefix("license:").strip() or None
    return None

"""Debian's mirrors as this machine's own apt knows them; none is written down here."""

from __future__ import annotations

from images.workplace import run

_COMPONENTS = "main non-free-firmware"


def trixie_sources() -> list[str]:
    """Return lines for a sources.list of trixie, its updates, its security fixes and its backports.

    Raises:
        SystemExit: this machine's apt knows no Debian mirror.
    """
    targets = run("apt-get", "indextargets", "--format", "$(ORIGIN)|$(LABEL)|$(REPO_URI)", "Created-By: Packages")
    found: dict[str, str] = {}
    for line in targets.splitlines():
        origin, label, uri = line.split("|", 2)
        if origin == "Debian":
            found.setdefault(label, uri.rstrip("/"))
    mirror = found.get("Debian")
    if mirror is None:
        raise SystemExit("This machine's apt knows no Debian mirror; run apt-get update, or build on Debian.")
    lines = [f"deb {mirror} {suite} {_COMPONENTS}" for suite in ("trixie", "trixie-updates", "trixie-backports")]
    if "Debian-Security" in found:
        lines.insert(2, f"deb {found['Debian-Security']} trixie-security {_COMPONENTS}")
    return lines

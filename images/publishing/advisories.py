"""The locked packages against a list of known holes, which is given: no build asks anybody on the network.

The list is a folder or a zip file of advisories in the OSV format, one a file, in JSON or YAML: the export of osv.dev
for PyPI, or a checkout of PyPA's advisory database.
"""

from __future__ import annotations

import datetime
import json
import re
import tomllib
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from packaging.version import InvalidVersion, Version

from images.workplace import ROOT

LOCKS = ("appliance/requirements.lock", "quantize/requirements.lock")
_CLOSED = Path(__file__).with_name("closed.toml")
_MOST_DAYS = 30  # a list whose newest entry is older was not exported for this release
_PACKAGE = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;\\]+)", re.MULTILINE)
_ECOSYSTEM = "PyPI"


@dataclass(frozen=True, slots=True)
class Hole:
    """A known hole of a locked package; `reason` tells why it does not matter here, if that was found and tested."""

    id: str
    aliases: tuple[str, ...]
    package: str
    version: str
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """The result; without a list nothing was checked, and `why` says so."""

    num_packages: int
    num_advisories: int = 0
    newest: datetime.date | None = None
    holes: tuple[Hole, ...] = ()
    why: str | None = None

    @property
    def open_holes(self) -> list[Hole]:
        """The holes for which nobody has found that they do not matter."""
        return [hole for hole in self.holes if hole.reason is None]

    def to_json(self) -> str:
        """Return the list that travels with the release."""
        body = {
            "checked": self.why is None,
            "why": self.why,
            "packages": self.num_packages,
            "advisories": self.num_advisories,
            "newest": None if self.newest is None else self.newest.isoformat(),
            "holes": [
                {"id": h.id, "aliases": h.aliases, "package": h.package, "version": h.version, "reason": h.reason}
                for h in self.holes
            ],
        }
        return json.dumps(body, indent=1) + "\n"

    def sentence(self) -> str:
        """Return what people read in the notes."""
        if self.why is not None:
            return f"The locks were not checked against known holes: {self.why}."
        told = (
            f"{self.num_packages} locked packages against {self.num_advisories} advisories, the newest of {self.newest}"
        )
        return f"{told}: {len(self.holes)} apply to a version, {len(self.open_holes)} of them open."


def check_locks(source: Path | None, released: datetime.date, root: Path = ROOT) -> Report:
    """Check every locked package against the list.

    Raises:
        SystemExit: the list cannot be read.
    """
    packages = locked(root)
    if source is None:
        return Report(len(packages), why="no list of advisories was given (ADVISORIES=FOLDER or a zip file)")
    if not source.exists():
        raise SystemExit(f"{source}, the list of advisories, does not exist.")
    closed, holes, num, newest = _closed(), list[Hole](), 0, datetime.date.min
    for advisory in _advisories(source):
        num += 1
        newest = max(newest, _date(advisory))
        for name, version in _affected(advisory, packages):
            ids = (str(advisory["id"]), *map(str, advisory.get("aliases") or ()))
            reason = next((closed[one] for one in ids if one in closed), None)
            holes.append(Hole(ids[0], ids[1:], name, version, reason))
    if (released - newest).days > _MOST_DAYS:
        told = f"the newest entry of the list is of {newest}" if num else "the list is empty"
        return Report(len(packages), num, newest if num else None, tuple(holes), why=told)
    return Report(len(packages), num, newest, tuple(sorted(holes, key=lambda h: (h.package, h.id))))


def locked(root: Path = ROOT) -> set[tuple[str, str]]:
    """Return name and version of each package of the locks."""
    texts = [(root / lock).read_text("utf-8") for lock in LOCKS]
    return {(_normal(name), version) for text in texts for name, version in _PACKAGE.findall(text)}


def closed_holes() -> list[Mapping[str, Any]]:
    """Return the holes that were found not to matter, each with its reason and its tests."""
    found: list[Mapping[str, Any]] = tomllib.loads(_CLOSED.read_text("utf-8"))["hole"]
    return found


def _closed() -> dict[str, str]:
    return {one: str(entry["reason"]) for entry in closed_holes() for one in entry["ids"]}


def _advisories(source: Path) -> Iterator[Mapping[str, Any]]:
    for name, data in _files(source):
        try:
            found = json.loads(data) if name.endswith(".json") else yaml.safe_load(data)
        except (ValueError, yaml.YAMLError) as err:
            raise SystemExit(f"{name} of {source} is no advisory: {err}") from err
        if isinstance(found, dict) and "id" in found and not found.get("withdrawn"):
            yield found


def _files(source: Path) -> Iterator[tuple[str, bytes]]:
    endings = (".json", ".yaml", ".yml")
    if source.is_dir():
        yield from ((p.name, p.read_bytes()) for p in sorted(source.rglob("*")) if p.name.endswith(endings))
        return
    try:
        with zipfile.ZipFile(source) as archive:
            yield from ((n, archive.read(n)) for n in sorted(archive.namelist()) if n.endswith(endings))
    except zipfile.BadZipFile as err:
        raise SystemExit(f"{source} is neither a folder nor a zip file of advisories.") from err


def _affected(advisory: Mapping[str, Any], packages: set[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    for entry in advisory.get("affected") or ():
        package = entry.get("package") or {}
        if package.get("ecosystem") != _ECOSYSTEM:
            continue
        name = _normal(str(package.get("name")))
        for found, version in sorted(packages):
            if found == name and _applies(entry, version):
                yield name, version


def _applies(entry: Mapping[str, Any], version: str) -> bool:
    """Tell if a version is listed, or lies in a range of versions (OSV schema 1.6, evaluation)."""
    if version in map(str, entry.get("versions") or ()):
        return True
    ranges: Sequence[Mapping[str, Any]] = entry.get("ranges") or ()
    return any(r.get("type") == "ECOSYSTEM" and _in_range(r.get("events") or (), version) for r in ranges)


def _in_range(events: Sequence[Mapping[str, Any]], version: str) -> bool:
    ours, is_affected = Version(version), False
    for event in events:
        [(kind, bound)] = event.items()
        try:
            theirs = Version("0" if str(bound) == "0" else str(bound))
        except InvalidVersion:
            continue
        match kind:
            case "introduced" if ours >= theirs:
                is_affected = True
            case "fixed" if ours >= theirs:
                is_affected = False
            case "last_affected" if ours > theirs:
                is_affected = False
    return is_affected


def _date(advisory: Mapping[str, Any]) -> datetime.date:
    """Return the day of the last change; YAML makes dates of what JSON leaves as text."""
    text = str(advisory.get("modified") or advisory.get("published") or "")[:10]
    try:
        return datetime.date.fromisoformat(text)
    except ValueError:
        return datetime.date.min


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()

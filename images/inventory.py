"""The inventory of an image: a CycloneDX document of every deb, wheel and model, and a plain list of the debs."""

from __future__ import annotations

import datetime
import json
import uuid
from collections.abc import Iterator
from email.parser import HeaderParser
from pathlib import Path
from typing import Any

from images.workplace import VERSION, source_date_epoch

Component = dict[str, Any]


def debs(tree: Path) -> list[Component]:
    """List every installed Debian package, by name."""
    found = []
    for paragraph in (tree / "var/lib/dpkg/status").read_text("utf-8").split("\n\n"):
        fields = HeaderParser().parsestr(paragraph)
        if "installed" in fields.get("Status", "").split():
            name, version, architecture = fields["Package"], fields["Version"], fields["Architecture"]
            purl = f"pkg:deb/debian/{name}@{_quoted(version)}?arch={architecture}&distro=debian-13"
            found.append({"type": "library", "name": name, "version": version, "purl": purl, "bom-ref": purl})
    return sorted(found, key=lambda c: str(c["name"]))


def wheels(site: Path) -> list[Component]:
    """List every Python package of the appliance, by name."""
    found = []
    for path in site.glob("*.dist-info/METADATA"):
        fields = HeaderParser().parsestr(path.read_text("utf-8"))
        name, version = fields["Name"].lower().replace("_", "-"), fields["Version"]
        purl = f"pkg:pypi/{name}@{_quoted(version)}"
        component = {"type": "library", "name": name, "version": version, "purl": purl, "bom-ref": purl}
        expression = fields.get("License-Expression")
        found.append({**component, "licenses": [{"expression": expression}]} if expression else component)
    return sorted(found, key=lambda c: str(c["name"]))


def models(bundles: Path) -> list[Component]:
    """List every model by its bundle's identity."""
    return list(_models(bundles))


def _models(bundles: Path) -> Iterator[Component]:
    for active in sorted(bundles.glob("*/active")):
        folder = active.resolve()
        manifest = json.loads((folder / "manifest.json").read_bytes())
        yield {
            "type": "machine-learning-model",
            "name": active.parent.name,
            "version": folder.name,
            "bom-ref": f"model:{active.parent.name}@{folder.name}",
            "licenses": [{"license": {"id": manifest["license"]}}],
        }


def document(name: str, components: list[Component]) -> str:
    """Return CycloneDX 1.6 as JSON, the same for the same contents."""
    time = datetime.datetime.fromtimestamp(source_date_epoch(), datetime.UTC).isoformat().replace("+00:00", "Z")
    refs = "\n".join(str(c["bom-ref"]) for c in components)
    body = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, f'{name} {VERSION} {refs}')}",
        "version": 1,
        "metadata": {
            "timestamp": time,
            "component": {"type": "firmware", "name": name, "version": VERSION, "bom-ref": f"{name}@{VERSION}"},
        },
        "components": components,
    }
    return json.dumps(body, indent=1) + "\n"


def listing(components: list[Component]) -> str:
    """Return names and versions, one a line."""
    return "".join(f"{c['name']}\t{c['version']}\n" for c in components)


def _quoted(version: str) -> str:
    return version.replace("+", "%2B").replace(":", "%3A")

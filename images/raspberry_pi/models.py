"""The models that every card comes with, and whose signature it trusts, as they lie on the data partition."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from appliance.home import lantern_home
from images.workplace import run, say

STARTERS = ("all-minilm-l6-v2", "smollm2-135m-instruct")
_LICENSE = "Apache-2.0"


def add_models(folder: Path) -> None:
    """Copy the active starter bundles and the keys that signed them; built first where this machine has none.

    Raises:
        SystemExit: a model of another licence than an image may carry.
    """
    home = lantern_home()
    if not all((home.bundles / name / "active").exists() for name in STARTERS):
        say("The starter models, once")
        run(sys.executable, "-m", "quantize", "starter")
    for name in STARTERS:
        active = (home.bundles / name / "active").resolve()
        license_of_it = json.loads((active / "manifest.json").read_bytes()).get("license")
        if license_of_it != _LICENSE:
            raise SystemExit(f"{name} has the licence {license_of_it}; an image carries only {_LICENSE}.")
        shutil.copytree(active, folder / "bundles" / name / active.name)
        (folder / "bundles" / name / "active").symlink_to(active.name)
    shutil.copytree(home.trusted_keys, folder / "keys/trusted")
    for path in [folder, *folder.rglob("*")]:
        if not path.is_symlink():
            path.chmod(0o700 if path.is_dir() else 0o600)

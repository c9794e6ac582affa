"""Lantern's own kernels: their library, and which models take them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from appliance.bundle import BundleStore, DecoderSpec, TrustedKeys
from appliance.config import Config
from appliance.diagnosis.finding import Finding, good, note
from appliance.engine.kernels import LIBRARY, KernelLibraryAbsentError, KernelLibraryError, library_version
from appliance.engine.runtime.prepacked import recorded_choice
from appliance.errors import LanternError
from appliance.home import Home

_SUBJECT = "kernels"
_REMEDY = "Install the package again, or build the library: make kernels. The stock operators serve meanwhile."
_TRIAL_S = 60.0


def check_kernels(home: Home, config: Config, library: Path = LIBRARY) -> list[Finding]:
    """Check that the library of kernels can be used here, and list the choice for each decoder."""
    if not config.engine.kernels:
        return [good(_SUBJECT, "switched off by engine.kernels: the stock operators serve")]
    try:
        library_version(library)
    except KernelLibraryAbsentError:
        return [good(_SUBJECT, "no library was built: the stock operators serve")]
    except KernelLibraryError as err:
        return [note(_SUBJECT, err.message, _REMEDY)]
    family, fault = _family(library)
    if fault:
        return [note(_SUBJECT, fault, _REMEDY)]
    return [good(_SUBJECT, f"the library computes with {family}"), *_choices(home, library)]


def _family(library: Path) -> tuple[str, str]:
    """Return the family that a child process loads, or the fault that keeps it from doing so."""
    command = [sys.executable, "-m", "appliance.engine.kernels", str(library)]
    try:
        result = subprocess.run(command, timeout=_TRIAL_S, capture_output=True, text=True, check=False)  # noqa: S603
    except (OSError, subprocess.SubprocessError) as err:
        return "", f"the library could not be tried: {err}"
    if result.returncode:
        lines = result.stderr.strip().splitlines()
        return "", lines[-1] if lines else f"the library ended a process that loaded it ({result.returncode})"
    return result.stdout.strip(), ""


def _choices(home: Home, library: Path) -> list[Finding]:
    store = BundleStore(home.bundles, TrustedKeys.load(home.trusted_keys))
    findings = []
    for name in store.names():
        try:
            bundle = store.describe(name)
            is_decoder = isinstance(bundle.manifest.model, DecoderSpec)
            choice = recorded_choice(bundle, home.prepacked, library) if is_decoder else None
        except LanternError:  # told by the check of the bundles
            continue
        if choice is None:
            continue
        text = f"{name} {choice.describe()}"
        findings.append(note(_SUBJECT, text, _REMEDY) if choice.fault else good(_SUBJECT, text))
    return findings

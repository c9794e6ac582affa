"""The memory of the board against the installed models, each by itself."""

from __future__ import annotations

import psutil

from appliance.bundle import BundleStore, TrustedKeys
from appliance.bundle.manifest import MODEL_NAME
from appliance.config import Config
from appliance.diagnosis.finding import Finding, bad, good
from appliance.errors import LanternError
from appliance.home import Home
from appliance.models.loaded import EngineSettings
from appliance.models.memory import MARGIN_BYTES, needed_bytes

_SUBJECT = "capacity"
_MIB = 1 << 20


def check_capacity(home: Home, config: Config, total_bytes: int | None = None) -> list[Finding]:
    """List the models that this board cannot load even if nothing else is loaded; they may be of a larger board."""
    total = psutil.virtual_memory().total if total_bytes is None else total_bytes
    limit = min(total, (config.models.memory_mib << 20) or total)
    store, settings = BundleStore(home.bundles, TrustedKeys.load(home.trusted_keys)), EngineSettings.of(config.engine)
    num_models, findings = 0, []
    for name in store.names():
        try:
            bundle = store.describe(name)
            needed = needed_bytes(bundle, settings, graph=store.read(bundle, MODEL_NAME)) + MARGIN_BYTES
        except LanternError:  # told by the check of the bundles
            continue
        num_models += 1
        if needed > limit:
            told = f"{name} needs {needed // _MIB} MiB, and {limit // _MIB} MiB is all there is"
            findings.append(bad(_SUBJECT, told, _remedy(limit, total)))
    if num_models and not findings:
        findings.append(good(_SUBJECT, f"each of {num_models} models fits into {limit // _MIB} MiB"))
    return findings


def _remedy(limit: int, total: int) -> str:
    others = "lower engine.slots or engine.context_length, or take a smaller model."
    return f"Raise models.memory_mib, {others}" if limit < total else f"{others[0].upper()}{others[1:]}"

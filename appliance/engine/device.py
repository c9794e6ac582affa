"""Whether a decoder runs on a GPU of this board: where a child process has shown that it computes the same, sooner.

Each execution provider that this onnxruntime has is tried once for a bundle, and the fastest is remembered beside the
prepacked form. A provider that crashes or hangs costs the child that tried it, and the processor is used. Whether the
device still multiplies right is asked again at every load.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

from appliance.bundle import Bundle
from appliance.bundle.manifest import MODEL_NAME
from appliance.engine.graph_edit import half_cache
from appliance.engine.model_file import DeviceGraph
from appliance.engine.provider import accelerators
from appliance.errors import ModelError

_LOGGER = logging.getLogger(__name__)
_GRAPH_NAME = "device.onnx"
_RECORD_NAME = "device.json"
_TRIAL = "appliance.engine.device_trial"
_PRODUCT = "appliance.engine.product"
_TRIAL_S = 300.0
_PRODUCT_S = 120.0


def device_graph(bundle: Bundle, folder: Path) -> DeviceGraph | None:
    """What another device than the processor computes right and sooner; None without one. `folder` keeps the answer."""
    providers = accelerators()
    if not providers:
        return None
    provider = _recorded(folder) if (folder / _RECORD_NAME).exists() else _try(bundle, folder, providers)
    if provider not in providers:
        return None
    if not computes_right(provider):
        _LOGGER.warning("%s multiplies wrongly here: %s runs on the processor", provider, bundle.name)
        return None
    return DeviceGraph(folder / _GRAPH_NAME, provider, bundle.folder.resolve())


def computes_right(provider: str) -> bool:
    """Whether a product of two matrices comes out right on this provider, in a process of its own."""
    return _child(_PRODUCT, provider, timeout_s=_PRODUCT_S) is not None


def _try(bundle: Bundle, folder: Path, providers: list[str]) -> str | None:
    """The fastest provider that says what the processor says; no answer is kept where none of them multiplied right."""
    able = [provider for provider in providers if computes_right(provider)]
    if not able:
        return None
    best, best_gain = None, 1.0
    try:
        (folder / _GRAPH_NAME).write_bytes(half_cache(bundle.path(MODEL_NAME).read_bytes()))
        for provider in able:
            gain = _child(_TRIAL, str(bundle.folder), str(folder), provider, timeout_s=_TRIAL_S)
            _LOGGER.info("%s on %s: %s", bundle.name, provider, f"{gain} times as fast" if gain else "not usable")
            if gain is not None and float(gain) > best_gain:
                best, best_gain = provider, float(gain)
        (folder / _RECORD_NAME).write_text(json.dumps({"provider": best}), "ascii")
    except (OSError, ModelError, ValueError) as err:
        _LOGGER.warning("No device was tried for %s: %s", bundle.name, err)
        return None
    return best


def _recorded(folder: Path) -> str | None:
    try:
        provider = json.loads((folder / _RECORD_NAME).read_text("ascii"))["provider"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return provider if isinstance(provider, str) else None


def _child(module: str, *arguments: str, timeout_s: float) -> str | None:
    """What a module says; None where it fails, crashes or hangs."""
    try:
        result = subprocess.run(  # noqa: S603
            [sys.executable, "-m", module, *arguments], timeout=timeout_s, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.SubprocessError) as err:
        _LOGGER.info("%s %s: %s", module, arguments[-1], err)
        return None
    return result.stdout.strip()


def graph_path(folder: Path) -> Path:
    """The graph that is tried and run."""
    return folder / _GRAPH_NAME

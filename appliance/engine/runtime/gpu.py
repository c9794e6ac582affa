"""The choice of a GPU for a decoder: a child process has to show that its logits are the same, and faster.

Each execution provider of this onnxruntime is tried once for a bundle, and the fastest is recorded beside the prepacked
form. A provider that crashes or hangs ends only the child that tried it, and the processor is used. A product of two
matrices is checked again at every load.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

from appliance.bundle import Bundle
from appliance.bundle.manifest import MODEL_NAME
from appliance.engine.graphs.slot_arrays import has_state
from appliance.engine.graphs.variants import with_fp16_kv
from appliance.engine.runtime.model_file import DeviceGraph
from appliance.engine.runtime.provider import accelerators
from appliance.errors import ModelError

_LOGGER = logging.getLogger(__name__)
_GRAPH_NAME = "device.onnx"
_RECORD_NAME = "device.json"
_TRIAL = "appliance.engine.runtime.gpu_trial"
_PRODUCT = "appliance.engine.runtime.product"
_TRIAL_S = 300.0
_PRODUCT_S = 120.0
_NVMAP = "NvMap"
_MOST_CHARS = 300


def device_graph(bundle: Bundle, folder: Path) -> DeviceGraph | None:
    """Return the graph for a GPU that is right and faster than the processor, or None; `folder` keeps the result."""
    providers = accelerators()
    if not providers:
        return None
    if has_state(bundle.path(MODEL_NAME).read_bytes()):
        _LOGGER.info("%s runs on the processor: it has recurrent state, which a GPU does not keep", bundle.name)
        return None
    provider = _recorded(folder) if (folder / _RECORD_NAME).exists() else _try(bundle, folder, providers)
    if provider not in providers:
        return None
    if not computes_right(provider):
        _LOGGER.warning("%s multiplies wrongly here: %s runs on the processor", provider, bundle.name)
        return None
    return made_graph(bundle.folder, folder, provider)


def made_graph(bundle_folder: Path, folder: Path, provider: str) -> DeviceGraph:
    """Return the graph to try and to run: it lies in `folder`, its weights in the bundle's folder."""
    return DeviceGraph(folder / _GRAPH_NAME, provider, bundle_folder.resolve())


def computes_right(provider: str) -> bool:
    """Return True if a provider multiplies two matrices right, in a process of its own."""
    return provider_fault(provider) is None


def provider_fault(provider: str, *, product: str = _PRODUCT) -> str | None:
    """Return the reason why a provider does not multiply right in a process of its own; None if it does.

    `product` is the module of that process. A Jetson's driver prints NvMap errors where memory for the GPU cannot be
    had; they tell more than what follows them.
    """
    try:
        _run(product, provider, timeout_s=_PRODUCT_S)
    except subprocess.TimeoutExpired:
        return f"it did not answer within {_PRODUCT_S:.0f} s"
    except subprocess.CalledProcessError as err:
        lines = [line.strip() for line in f"{err.stdout}\n{err.stderr}".splitlines() if line.strip()]
        told = next((line for line in lines if _NVMAP in line), lines[-1] if lines else f"exit code {err.returncode}")
        return told[:_MOST_CHARS]
    except OSError as err:
        return str(err)
    return None


def recorded_providers(folder: Path) -> list[str | None]:
    """Return the providers that the forms of one model take, as recorded below `folder`; None is the processor."""
    return [_recorded(record.parent) for record in sorted(folder.glob(f"*/{_RECORD_NAME}"))]


def _try(bundle: Bundle, folder: Path, providers: list[str]) -> str | None:
    """Return the fastest provider whose logits match the processor's; nothing is kept if none multiplies right."""
    able = [provider for provider in providers if computes_right(provider)]
    if not able:
        return None
    best, best_gain = None, 1.0
    try:
        (folder / _GRAPH_NAME).write_bytes(with_fp16_kv(bundle.path(MODEL_NAME).read_bytes()))
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
    """Run a module and return its output; None if it fails, crashes or hangs."""
    try:
        return _run(module, *arguments, timeout_s=timeout_s)
    except (OSError, subprocess.SubprocessError) as err:
        _LOGGER.info("%s %s: %s", module, arguments[-1], err)
        return None


def _run(module: str, *arguments: str, timeout_s: float) -> str:
    command = [sys.executable, "-m", module, *arguments]
    result = subprocess.run(command, timeout=timeout_s, capture_output=True, text=True, errors="replace", check=True)  # noqa: S603
    return result.stdout.strip()

"""GPUs of this board that models could run on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from appliance.bundle import BundleStore, TrustedKeys
from appliance.diagnosis.finding import Finding, good, note
from appliance.engine.runtime.gpu import provider_fault, recorded_providers
from appliance.engine.runtime.provider import accelerators
from appliance.home import Home

_SUBJECT = "gpu"
_REMEDY = "Look at the driver and at the device nodes that the service may open; the processor serves meanwhile."
_NVMAP = "NvMap"
_MEMORY = (
    "The board has no memory left that its GPU can use: stop other programs, or start the board again. If this stays, "
    "let the service open /dev/nvmap. The processor serves meanwhile."
)
_NO_PROVIDER = "Install NVIDIA's onnxruntime for this JetPack; the processor serves meanwhile."


def check_device(
    home: Home,
    root: Path = Path("/"),
    *,
    providers: Sequence[str] | None = None,
    fault_of: Callable[[str], str | None] = provider_fault,
) -> list[Finding]:
    """Check a product on each provider of this onnxruntime, and that models take it; empty without any GPU."""
    providers = accelerators() if providers is None else providers
    if not providers:
        told = "this is a Jetson, and this onnxruntime has only the processor's provider"
        return [note(_SUBJECT, told, _NO_PROVIDER)] if _is_jetson(root) else []
    faults = {provider: fault_of(provider) for provider in providers}
    right = [provider for provider, fault in faults.items() if fault is None]
    findings = [
        note(_SUBJECT, f"{provider} cannot compute here: {fault}", _MEMORY if _NVMAP in fault else _REMEDY)
        for provider, fault in faults.items()
        if fault is not None
    ]
    if not right:
        return findings
    text = f"{', '.join(right)} computes right; models use it where it is faster"
    return [*findings, good(_SUBJECT, text), *_on_the_processor(home)]


def _on_the_processor(home: Home) -> list[Finding]:
    """List the models that were tried on a GPU once and left on the processor."""
    store = BundleStore(home.bundles, TrustedKeys.load(home.trusted_keys))
    findings = []
    for name in store.names():
        found = recorded_providers(home.prepacked / name)
        if found and not any(found):
            told = f"{name} runs on the processor: no GPU gave its logits faster when it was tried"
            findings.append(note(_SUBJECT, told, f"To try it again, remove {home.prepacked / name} and load it."))
    return findings


def _is_jetson(root: Path) -> bool:
    compatible = root / "proc/device-tree/compatible"
    if (root / "etc/nv_tegra_release").exists():
        return True
    return compatible.exists() and b"nvidia,tegra" in compatible.read_bytes()

"""Whether models could run on a GPU of this board."""

from __future__ import annotations

from appliance.diagnosis.finding import Finding, good, note
from appliance.engine.device import computes_right
from appliance.engine.provider import accelerators

_REMEDY = "Look at the driver and at the device nodes that the service may open; the processor serves meanwhile."


def check_device() -> Finding | None:
    """What a product on each provider of this onnxruntime gave; None where it has only the processor's."""
    providers = accelerators()
    if not providers:
        return None
    right = [provider for provider in providers if computes_right(provider)]
    if not right:
        return note("gpu", f"{', '.join(providers)} cannot compute here", _REMEDY)
    return good("gpu", f"{', '.join(right)} computes right; models use it where it is faster")

"""The bundles that a bench on this machine can use, and what the heading says of them."""

from __future__ import annotations

from appliance.bench.report import ModelSummary
from appliance.bundle import Bundle, BundleStore, DecoderSpec
from appliance.errors import BundleError, ModelNotFoundError


def check_installed(store: BundleStore, *names: str | None) -> None:
    """Refuse before anything is started.

    Raises:
        BundleError: nothing is installed.
        ModelNotFoundError: a model that was named is not.
    """
    installed = store.names()
    if not installed:
        raise BundleError(
            f"no model is installed in {store.root}; build the starter models with: lantern-quantize starter"
        )
    for name in names:
        if name is not None and name not in installed:
            raise ModelNotFoundError(f"the model {name!r} is not installed; installed are: {', '.join(installed)}.")


def installed_decoder(store: BundleStore, name: str | None) -> tuple[Bundle, DecoderSpec]:
    """Open the named chat model, else the first one.

    Raises:
        BundleError: it does not verify.
        ModelNotFoundError: no such chat model is installed.
    """
    candidates = store.names() if name is None else [name]
    for candidate in candidates:
        bundle = store.open(candidate)
        if isinstance(bundle.manifest.model, DecoderSpec):
            return bundle, bundle.manifest.model
    raise ModelNotFoundError(f"there is nothing to decode: {', '.join(candidates)} cannot generate text.")


def summarize(bundle: Bundle) -> ModelSummary:
    """Return the heading's line about an installed model."""
    weights = bundle.manifest.recipe.get("weights")
    scheme = weights.get("scheme") if isinstance(weights, dict) else None
    return ModelSummary(bundle.name, bundle.manifest.size_bytes, scheme if isinstance(scheme, str) else None)

"""The model bundle: the one format that the device and the workstation share."""

from appliance.bundle.folder import Bundle, open_bundle, write_bundle
from appliance.bundle.manifest import (
    DecoderSpec,
    EncoderSpec,
    EvalReport,
    FileEntry,
    Manifest,
    RerankerSpec,
    RerankPrompt,
)
from appliance.bundle.signed_manifest import SignedManifest, verify_manifest
from appliance.bundle.signing import SigningKey
from appliance.bundle.store import BundleStore
from appliance.bundle.trusted_keys import TrustedKeys

__all__ = [
    "Bundle",
    "BundleStore",
    "DecoderSpec",
    "EncoderSpec",
    "EvalReport",
    "FileEntry",
    "Manifest",
    "RerankPrompt",
    "RerankerSpec",
    "SignedManifest",
    "SigningKey",
    "TrustedKeys",
    "open_bundle",
    "verify_manifest",
    "write_bundle",
]

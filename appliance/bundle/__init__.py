"""The model bundle: the one format that the device and the workstation share."""

from appliance.bundle.folder import Bundle, open_bundle, write_bundle
from appliance.bundle.manifest import DecoderSpec, EncoderSpec, EvalReport, FileEntry, Manifest, RerankerSpec
from appliance.bundle.signing import SigningKey, TrustedKeys
from appliance.bundle.store import BundleStore

__all__ = [
    "Bundle",
    "BundleStore",
    "DecoderSpec",
    "EncoderSpec",
    "EvalReport",
    "FileEntry",
    "Manifest",
    "RerankerSpec",
    "SigningKey",
    "TrustedKeys",
    "open_bundle",
    "write_bundle",
]

"""A manifest whose signature was verified, without any IO: who signed it, and its digest. Files are not looked at."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from appliance.bundle.manifest import FileEntry, Manifest
from appliance.bundle.trusted_keys import TrustedKeys
from appliance.errors import BundleError


@dataclass(frozen=True, slots=True)
class SignedManifest:
    """A manifest that a trusted key signed; `data` and `signature` are the exact bytes. Its files were not verified."""

    manifest: Manifest
    signer: str
    data: bytes = field(repr=False)
    signature: bytes = field(repr=False)

    @property
    def name(self) -> str:
        """The model id that clients use."""
        return self.manifest.name

    @property
    def digest(self) -> str:
        """SHA-256 of the manifest as it was signed: the identity of this exact bundle.

        Independent of the fields that this version of the program knows.
        """
        return hashlib.sha256(self.data).hexdigest()

    def has(self, name: str) -> bool:
        """Return if the manifest names this file."""
        return any(f.name == name for f in self.manifest.files)

    def entry(self, name: str) -> FileEntry:
        """Return the manifest's entry of a file.

        Raises:
            BundleError: the manifest names no such file.
        """
        for entry in self.manifest.files:
            if entry.name == name:
                return entry
        raise BundleError(f"the bundle {self.name} has no file {name}")


def verify_manifest(data: bytes, signature: bytes, trusted: TrustedKeys) -> SignedManifest:
    """Verify the signature over the manifest's bytes, then parse them.

    Raises:
        UntrustedSignerError: signed by a key that is not trusted.
        BundleError: a wrong signature, or a manifest that is not valid.
    """
    signer = trusted.verify(data, signature)
    return SignedManifest(Manifest.from_bytes(data), signer, data, signature)

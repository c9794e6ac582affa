"""Ed25519 (RFC 8032) over the manifest's exact bytes: signatures, and both halves of a key. Knows no folder of keys."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from appliance.errors import BundleError, ConfigError
from appliance.host.files import write_atomically


def key_id(key: Ed25519PublicKey) -> str:
    """Return the first 16 hex digits of the raw public key's SHA-256."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]


def signer_of(signature_file: bytes) -> str:
    """Return the id of the key that a signature names, without verifying anything.

    Raises:
        BundleError: the file is malformed.
    """
    return read_signature(signature_file)[0]


class SigningKey:
    """A private key: bundles that it signs run on every device that trusts it."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private

    @classmethod
    def load_or_create(cls, path: Path) -> SigningKey:
        """Read a PEM file, or create one that only its owner can read."""
        try:
            return cls.load(path)
        except FileNotFoundError:
            pass
        private = Ed25519PrivateKey.generate()
        pem = private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        try:
            write_atomically(path, pem, replace=False)
        except FileExistsError:
            return cls.load(path)
        return cls(private)

    @classmethod
    def load(cls, path: Path) -> SigningKey:
        """Read a PEM file.

        Raises:
            FileNotFoundError: no such file.
            BundleError: not an Ed25519 private key.
        """
        try:
            private = serialization.load_pem_private_key(path.read_bytes(), password=None)
        except (ValueError, TypeError) as err:
            raise BundleError(f"{path} is not a private key in PEM form") from err
        if not isinstance(private, Ed25519PrivateKey):
            raise BundleError(f"{path} is not an Ed25519 key")
        return cls(private)

    @property
    def public(self) -> Ed25519PublicKey:
        """The public half, which devices keep."""
        return self._private.public_key()

    def sign(self, message: bytes) -> bytes:
        """Return the signature file's content for these bytes."""
        signature = base64.b64encode(self._private.sign(message)).decode()
        return json.dumps({"key_id": key_id(self.public), "signature": signature}).encode() + b"\n"


def read_public_key(pem: bytes, *, what: str = "this") -> Ed25519PublicKey:
    """Parse a public key in PEM form; a private key is refused, since it must not leave its owner's machine.

    Raises:
        ConfigError: not an Ed25519 public key.
    """
    try:
        public = serialization.load_pem_public_key(pem)
    except ValueError as err:
        raise ConfigError(f"{what} is not a public key in PEM form, as lantern-quantize keygen makes it") from err
    if not isinstance(public, Ed25519PublicKey):
        raise ConfigError(f"{what} is not an Ed25519 key")
    return public


def public_pem(public: Ed25519PublicKey) -> bytes:
    """Return the PEM form in which keys are handed over."""
    return public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def read_signature(signature_file: bytes) -> tuple[str, bytes]:
    """Parse a signature file into the key's id and the signature, without verifying anything.

    Raises:
        BundleError: the file is malformed.
    """
    try:
        raw = json.loads(signature_file)
        return str(raw["key_id"]), base64.b64decode(raw["signature"], validate=True)
    except (ValueError, KeyError, TypeError, RecursionError) as err:
        raise BundleError("the bundle's signature file is malformed; copy the bundle again") from err

"""Ed25519 (RFC 8032) over the manifest's exact bytes, and the keys that this machine trusts."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from appliance.errors import BundleError


def key_id(key: Ed25519PublicKey) -> str:
    """The first 16 hex digits of the raw public key's SHA-256."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]


class SigningKey:
    """A private key; whoever holds it can make bundles that the devices trusting it will run."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private

    @classmethod
    def load_or_create(cls, path: Path) -> SigningKey:
        """Read a PEM file, or make one that only its owner can read."""
        try:
            return cls.load(path)
        except FileNotFoundError:
            pass
        private = Ed25519PrivateKey.generate()
        pem = private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(pem)
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
        """The half that devices keep."""
        return self._private.public_key()

    def sign(self, message: bytes) -> bytes:
        """The signature file's content for these bytes."""
        signature = base64.b64encode(self._private.sign(message)).decode()
        return json.dumps({"key_id": key_id(self.public), "signature": signature}).encode() + b"\n"


class TrustedKeys:
    """The public keys whose bundles this machine runs."""

    def __init__(self, keys: Mapping[str, Ed25519PublicKey]) -> None:
        self._keys = dict(keys)

    @classmethod
    def load(cls, folder: Path) -> TrustedKeys:
        """Every `*.pub` (PEM) of a folder; an absent folder trusts nobody."""
        keys: dict[str, Ed25519PublicKey] = {}
        for path in sorted(folder.glob("*.pub")):
            try:
                public = serialization.load_pem_public_key(path.read_bytes())
            except ValueError as err:
                raise BundleError(f"{path} is not a public key in PEM form; remove it") from err
            if not isinstance(public, Ed25519PublicKey):
                raise BundleError(f"{path} is not an Ed25519 key; remove it")
            keys[key_id(public)] = public
        return cls(keys)

    @staticmethod
    def add(folder: Path, public: Ed25519PublicKey) -> None:
        """Trust a key from now on."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        path = folder / f"{key_id(public)}.pub"
        if not path.exists():
            path.write_bytes(pem)

    def verify(self, message: bytes, signature_file: bytes) -> str:
        """Check the signature file against the bytes and give the id of the key that made it.

        Raises:
            BundleError: malformed, made by a key that is not trusted, or wrong.
        """
        try:
            raw = json.loads(signature_file)
            signer, signature = str(raw["key_id"]), base64.b64decode(raw["signature"], validate=True)
        except (ValueError, KeyError, TypeError, RecursionError) as err:
            raise BundleError("the bundle's signature file is malformed; copy the bundle again") from err
        public = self._keys.get(signer)
        if public is None:
            raise BundleError(
                f"the bundle is signed by key {signer[:16]!r}, which is not trusted here; "
                "add that key to the trusted keys, or build the bundle on this machine"
            )
        try:
            public.verify(signature, message)
        except InvalidSignature as err:
            raise BundleError("the bundle's signature does not match its manifest") from err
        return signer

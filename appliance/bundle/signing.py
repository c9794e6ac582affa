"""Ed25519 (RFC 8032) over the manifest's exact bytes, and the keys that this machine trusts."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from appliance.errors import BundleError, ConfigError, UnknownNameError, UntrustedSignerError
from appliance.files import sync_folder, write_whole

_LOGGER = logging.getLogger(__name__)

_SUFFIX = ".pub"


def key_id(key: Ed25519PublicKey) -> str:
    """The first 16 hex digits of the raw public key's SHA-256."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]


def signer_of(signature_file: bytes) -> str:
    """The id of the key that says it made this signature.

    Raises:
        BundleError: the file is malformed.
    """
    return _read_signature(signature_file)[0]


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


def read_public_key(pem: bytes, *, what: str = "this") -> Ed25519PublicKey:
    """A public key in PEM form; the half that signs is refused, since it has no business anywhere else.

    Raises:
        ConfigError: something else.
    """
    try:
        public = serialization.load_pem_public_key(pem)
    except ValueError as err:
        raise ConfigError(f"{what} is not a public key in PEM form, as lantern-quantize keygen makes it") from err
    if not isinstance(public, Ed25519PublicKey):
        raise ConfigError(f"{what} is not an Ed25519 key")
    return public


def public_pem(public: Ed25519PublicKey) -> bytes:
    """The form in which keys are handed over."""
    return public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


class TrustedKeys:
    """The public keys whose bundles this machine runs.

    Those of a folder are read anew for each signature, so that a key counts, or no longer counts, at once.
    """

    def __init__(self, keys: Mapping[str, Ed25519PublicKey], *, folder: Path | None = None) -> None:
        self._keys = dict(keys)
        self._folder = folder

    @classmethod
    def load(cls, folder: Path) -> TrustedKeys:
        """Every `*.pub` (PEM) of a folder, as it is whenever one is needed; an absent folder trusts nobody."""
        return cls({}, folder=folder)

    @staticmethod
    def add(folder: Path, public: Ed25519PublicKey) -> str:
        """Trust a key from now on, and give its id."""
        path = folder / f"{key_id(public)}{_SUFFIX}"
        if not path.exists():
            write_whole(path, public_pem(public))
        return path.stem

    @staticmethod
    def remove(folder: Path, signer: str) -> None:
        """Trust a key no longer; what it signed does not load again.

        Raises:
            UnknownNameError: it was not trusted.
        """
        path = folder / f"{signer}{_SUFFIX}"
        if path not in folder.glob(f"*{_SUFFIX}"):
            known = ", ".join(sorted(p.stem for p in folder.glob(f"*{_SUFFIX}"))) or "none"
            raise UnknownNameError(f"The key {signer[:64]!r} is not trusted here; trusted: {known}.")
        path.unlink()
        sync_folder(folder)

    def all(self) -> dict[str, Ed25519PublicKey]:
        """The keys by their ids; a damaged file is left out with a warning."""
        keys = dict(self._keys)
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")) if self._folder is not None else ():
            try:
                public = read_public_key(path.read_bytes(), what=str(path))
            except ConfigError as err:
                _LOGGER.warning("a trusted key does not count: %s", err.message)
                continue
            except FileNotFoundError:
                continue
            keys[key_id(public)] = public
        return keys

    def verify(self, message: bytes, signature_file: bytes) -> str:
        """Check the signature file against the bytes and give the id of the key that made it.

        Raises:
            UntrustedSignerError: made by a key that is not trusted.
            BundleError: malformed or wrong.
        """
        signer, signature = _read_signature(signature_file)
        public = self.all().get(signer)
        if public is None:
            raise UntrustedSignerError(
                f"the bundle is signed by key {signer[:16]!r}, which is not trusted here; if its maker may run models "
                "on this device: lantern models trust FILE.pub"
            )
        try:
            public.verify(signature, message)
        except InvalidSignature as err:
            raise BundleError("the bundle's signature does not match its manifest") from err
        return signer


def _read_signature(signature_file: bytes) -> tuple[str, bytes]:
    try:
        raw = json.loads(signature_file)
        return str(raw["key_id"]), base64.b64decode(raw["signature"], validate=True)
    except (ValueError, KeyError, TypeError, RecursionError) as err:
        raise BundleError("the bundle's signature file is malformed; copy the bundle again") from err

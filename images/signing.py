"""The keys that sign updates: made at the first build, kept outside the repository, and replaced by a team's own.

`$LANTERN_UPDATE_KEYS` is a folder with ca.pem (which devices trust), signing.pem and signing.key, and with release.key,
which signs the checksums of releases. The dates in the certificates are fixed and wide, since a board without a clock
starts in the past.
"""

from __future__ import annotations

import datetime
import os
from pathlib import Path

import platformdirs
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import NameOID

from images.workplace import say

SIGNING_FILES = ("ca.pem", "signing.pem", "signing.key")
RELEASE_KEY = "release.key"

_NOT_BEFORE = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
_NOT_AFTER = datetime.datetime(2120, 1, 1, tzinfo=datetime.UTC)


def update_keys() -> Path:
    """Return the folder with the keys; make new ones if it is absent."""
    folder = keys_folder()
    if not (folder / "signing.pem").exists():
        say(f"New keys for updates in {folder}: keep them, or devices will take no update of yours")
        make_keys(folder)
    return folder


def keys_folder() -> Path:
    """Return the folder of the keys, there or not."""
    chosen = os.environ.get("LANTERN_UPDATE_KEYS")
    return Path(chosen) if chosen else platformdirs.user_data_path("lantern-update-keys")


def keyring() -> Path:
    """Return the certificate that devices trust."""
    return update_keys() / "ca.pem"


def make_keys(folder: Path) -> None:
    """Make a certificate authority of our own, and one certificate of it that signs."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    authority_key, signing_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = _certificate("Lantern updates", authority_key.public_key(), authority_key, None)
    signing = _certificate("Lantern update signer", signing_key.public_key(), authority_key, authority)
    for name, key in (("ca.key", authority_key), ("signing.key", signing_key)):
        data = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (folder / name).touch(mode=0o600)
        (folder / name).write_bytes(data)
    (folder / "ca.pem").write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    (folder / "signing.pem").write_bytes(signing.public_bytes(serialization.Encoding.PEM))


def add_release_key(folder: Path) -> Path:
    """Make the key that signs the checksums of releases, if it is absent; return its file."""
    path = folder / RELEASE_KEY
    if not path.exists():
        private = ed25519.Ed25519PrivateKey.generate()
        path.touch(mode=0o600)
        path.write_bytes(
            private.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
    return path


def _certificate(
    name: str,
    public: ec.EllipticCurvePublicKey,
    issuer_key: ec.EllipticCurvePrivateKey,
    issuer: x509.Certificate | None,
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    is_authority = issuer is None
    usage = x509.KeyUsage(
        digital_signature=not is_authority,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_NOT_BEFORE)
        .not_valid_after(_NOT_AFTER)
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    return builder.sign(issuer_key, hashes.SHA256())

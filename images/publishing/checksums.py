"""The checksums of a release and their signature, which everybody can verify with openssl and sha256sum."""

from __future__ import annotations

from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from images.downloads import sha256_of

SUMS, SIGNATURE, PUBLIC = "SHA256SUMS", "SHA256SUMS.sig", "lantern-release.pub"
VERIFYING = (
    f"openssl pkeyutl -verify -pubin -inkey {PUBLIC} -rawin -in {SUMS} -sigfile {SIGNATURE}",
    f"sha256sum --check {SUMS}",
)


def sign_release(folder: Path, key: Path) -> None:
    """Write the sums of all files of a folder, their signature, and the public key that verifies it."""
    private = serialization.load_pem_private_key(key.read_bytes(), None)
    if not isinstance(private, Ed25519PrivateKey):
        raise SystemExit(f"{key} is no Ed25519 key; make release-keys makes one.")
    public = private.public_key()
    (folder / PUBLIC).write_bytes(
        public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    files = sorted(path for path in folder.iterdir() if path.name not in (SUMS, SIGNATURE))
    sums = "".join(f"{sha256_of(path)}  {path.name}\n" for path in files).encode()
    (folder / SUMS).write_bytes(sums)
    (folder / SIGNATURE).write_bytes(private.sign(sums))


def check_release(folder: Path, public: Path) -> None:
    """Check the signature and every sum.

    Raises:
        SystemExit: a file is absent, or is not the one that was signed.
    """
    key = serialization.load_pem_public_key(public.read_bytes())
    assert isinstance(key, Ed25519PublicKey)
    sums = (folder / SUMS).read_bytes()
    try:
        key.verify((folder / SIGNATURE).read_bytes(), sums)
    except InvalidSignature as err:
        raise SystemExit(f"{SUMS} was not signed with the key of {public}.") from err
    for line in sums.decode().splitlines():
        wanted, _, name = line.partition("  ")
        if not (folder / name).is_file() or sha256_of(folder / name) != wanted:
            raise SystemExit(f"{name} is absent, or is not the file that was signed.")

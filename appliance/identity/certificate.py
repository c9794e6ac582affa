"""The device's certificate: P-256, made at first start, valid whatever the clock says, known by its pin.

A board without a clock starts in 1970 and a shelf outlives every validity, so the dates say nothing: clients compare
the pin, which is the SHA-256 of the public key (SPKI, RFC 7469 section 2.4), and which a renewed certificate keeps.
Browsers show the SHA-256 of the whole certificate instead, in hexadecimal.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import hashlib
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from appliance.errors import ConfigError
from appliance.host.files import write_atomically

_NOT_BEFORE = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
_NOT_AFTER = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)  # RFC 5280 section 4.1.2.5


@dataclass(frozen=True, slots=True)
class Fingerprints:
    """A certificate as the commands compare it (`pin`), and as browsers show it: pairs of capitals between colons."""

    pin: str
    certificate: str


def device_certificate(path: Path, *, host_name: str) -> Path:
    """Return the PEM file with the device's key and certificate; make it if it is absent."""
    with contextlib.suppress(FileExistsError):
        if not path.exists():
            write_atomically(path, _make(host_name), replace=False)
    return path


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """Return a context of TLS 1.2 or newer with this certificate; the key may be in the same file.

    Raises:
        ConfigError: a file that cannot be read, or a key that does not belong to the certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate, key, password="")  # else a locked key waits for a terminal
    except (OSError, ssl.SSLError) as err:
        raise ConfigError(
            f"The certificate {certificate} with the key {key} cannot be used: {err.strerror or err}."
        ) from err
    return context


def pin_of(certificate: Path) -> str:
    """Return `sha256//` and the base64 of the key's hash, as `curl --pinnedpubkey` takes it.

    Raises:
        ConfigError: there is no certificate in the file.
    """
    return fingerprints_of(certificate).pin


def fingerprints_of(certificate: Path) -> Fingerprints:
    """Return the pin, and the SHA-256 of the certificate as browsers and openssl show it.

    Raises:
        ConfigError: there is no certificate in the file.
    """
    try:
        parsed = x509.load_pem_x509_certificate(certificate.read_bytes())
    except (OSError, ValueError) as err:
        raise ConfigError(f"{certificate} holds no certificate: {err}.") from err
    digest = parsed.fingerprint(hashes.SHA256())
    return Fingerprints(public_key_pin(parsed), digest.hex(":").upper())


def public_key_pin(certificate: x509.Certificate) -> str:
    """Return the pin of a certificate, independent of its signer and its fields."""
    public = certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return "sha256//" + base64.b64encode(hashlib.sha256(public).digest()).decode("ascii")


def _make(host_name: str) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host_name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_NOT_BEFORE)
        .not_valid_after(_NOT_AFTER)
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName(host_name), x509.DNSName("localhost")]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private + certificate.public_bytes(serialization.Encoding.PEM)

"""The certificate of HTTPS: reasons for which browsers refuse it."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID

from appliance.config import Config
from appliance.diagnosis.finding import Finding, bad, good, note
from appliance.home import Home
from appliance.identity.device_id import host_name

_SUBJECT = "https"
_MIN_RSA_BITS = 2048
_CURVES = ("secp256r1", "secp384r1")  # Chromium takes no other curve of a certificate, and Ed25519 neither
_OLD_HASHES = ("md5", "sha1")
_MOST_DAYS = 825  # Apple's systems refuse a longer one that an authority signed
_ANOTHER = "Let your authority issue another one, and set tls.certificate and tls.key."
_REMOVE_OWN = "Remove {}: the next start makes another one, which clients have to trust anew."


def check_certificate(home: Home, config: Config, now: datetime.datetime) -> Finding | None:
    """Check the certificate for what browsers refuse; None if HTTPS is off, or the first start makes it."""
    if not config.tls.enabled:
        return None
    is_own = not config.tls.certificate
    path = home.tls if is_own else Path(config.tls.certificate)
    if is_own and not path.exists():
        return None
    remedy = _REMOVE_OWN.format(path) if is_own else _ANOTHER
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as err:
        return bad(_SUBJECT, f"{path} holds no certificate: {err}", remedy)
    reason = next(_refused(certificate, now), None)
    if reason is not None:
        return bad(_SUBJECT, f"browsers refuse {path}: {reason}", remedy)
    own = [*config.server.host_names, *_announced(home)]
    if own and not any(_covers(certificate, name) for name in own):
        told = f"{path} is for {', '.join(_names(certificate)[:4])}, not for {own[0]}: browsers warn there"
        return note(_SUBJECT, told, f"Add the name that it is for to server.host_names. Or: {remedy}")
    if is_own:
        return good(_SUBJECT, "the device's own certificate: browsers warn once, so compare the fingerprint")
    return good(_SUBJECT, f"{path} is valid until {certificate.not_valid_after_utc:%Y-%m-%d}")


def _refused(certificate: x509.Certificate, now: datetime.datetime) -> Iterator[str]:
    """Yield the reasons that leave the reader of a page no way, or that every browser takes for an attack."""
    yield from _weak(certificate.public_key())
    algorithm = certificate.signature_hash_algorithm
    if algorithm is not None and algorithm.name in _OLD_HASHES:
        yield f"it is signed with {algorithm.name}"
    if not _names(certificate):
        yield "it names no host in subjectAltName"
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        if ExtendedKeyUsageOID.SERVER_AUTH not in usage:
            yield "its extended key usage is not for servers"
    except x509.ExtensionNotFound:
        pass
    first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if last < now:
        yield f"it expired on {last:%Y-%m-%d}"
    if first > now:
        yield f"it is valid from {first:%Y-%m-%d} on, and it is {now:%Y-%m-%d} here"
    if certificate.issuer != certificate.subject and (last - first).days > _MOST_DAYS:
        yield f"it is valid for {(last - first).days} days, and Apple's systems take at most {_MOST_DAYS}"


def _weak(key: CertificatePublicKeyTypes) -> Iterator[str]:
    match key:
        case rsa.RSAPublicKey() if key.key_size < _MIN_RSA_BITS:
            yield f"its RSA key has {key.key_size} bits"
        case rsa.RSAPublicKey():
            return
        case ec.EllipticCurvePublicKey() if key.curve.name not in _CURVES:
            yield f"its key is of the curve {key.curve.name}"
        case ec.EllipticCurvePublicKey():
            return
        case _:
            yield f"its key is {type(key).__name__.removesuffix('PublicKey').removeprefix('_')}, not RSA or P-256"


def _names(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [str(name.value) for name in names]


def _covers(certificate: x509.Certificate, name: str) -> bool:
    names = {entry.lower() for entry in _names(certificate)}
    return name.lower() in names or f"*.{name.lower().partition('.')[2]}" in names


def _announced(home: Home) -> list[str]:
    """Return the device's host name, if it has one already; nothing is made."""
    try:
        return [host_name((home.root / "device-id").read_text("ascii").strip())]
    except (OSError, ValueError):
        return []

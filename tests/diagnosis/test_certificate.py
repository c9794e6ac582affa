"""Certificates that browsers refuse, made with each fault by itself."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from appliance.config import Config
from appliance.diagnosis.certificate import check_certificate
from appliance.diagnosis.finding import Level
from appliance.home import Home
from appliance.identity.certificate import device_certificate
from appliance.identity.device_id import host_name, load_device_id

_NOW = datetime.datetime(2026, 11, 28, tzinfo=datetime.UTC)
_P256 = ec.generate_private_key(ec.SECP256R1())
_Key = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey


def write(
    folder: Path,
    *,
    key: _Key = _P256,
    name: str | None = "kitchen.example",
    first_days: int = -1,
    last_days: int = 300,
    is_for_servers: bool = True,
) -> Config:
    """Write a certificate that an authority signed, and return the settings that name it."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kitchen.example")]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_NOW + datetime.timedelta(days=first_days))
        .not_valid_after(_NOW + datetime.timedelta(days=last_days))
    )
    if name is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    usage = ExtendedKeyUsageOID.SERVER_AUTH if is_for_servers else ExtendedKeyUsageOID.EMAIL_PROTECTION
    builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    path = folder / "chain.pem"
    path.write_bytes(builder.sign(_P256, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    tls = {"enabled": True, "certificate": str(path), "key": str(folder / "key.pem")}
    return Config.model_validate({"tls": tls, "server": {"host_names": ["kitchen.example"]}})


def test_a_certificate_of_an_authority_is_fine(tmp_path: Path) -> None:
    finding = check_certificate(Home(tmp_path), write(tmp_path), _NOW)
    assert finding is not None
    assert (finding.level, finding.text[-10:]) == (Level.GOOD, "2027-09-24")


@pytest.mark.parametrize(
    ("reason", "changes"),
    [
        ("its key is Ed25519", {"key": ed25519.Ed25519PrivateKey.generate()}),
        ("of the curve secp521r1", {"key": ec.generate_private_key(ec.SECP521R1())}),
        ("RSA key has 1024 bits", {"key": rsa.generate_private_key(65537, 1024)}),
        ("names no host", {"name": None}),
        ("expired on 2026-11-27", {"first_days": -9, "last_days": -1}),
        ("valid from 2026-11-29", {"first_days": 1}),
        ("at most 825", {"last_days": 900}),
        ("not for servers", {"is_for_servers": False}),
    ],
)
def test_each_reason_for_which_browsers_refuse_it_is_named(
    tmp_path: Path, reason: str, changes: dict[str, object]
) -> None:
    finding = check_certificate(Home(tmp_path), write(tmp_path, **changes), _NOW)  # type: ignore[arg-type]
    assert finding is not None
    assert finding.level is Level.BAD
    assert reason in finding.text
    assert "tls.certificate" in finding.remedy


def test_a_certificate_for_another_name_is_told(tmp_path: Path) -> None:
    finding = check_certificate(Home(tmp_path), write(tmp_path, name="office.example"), _NOW)
    assert finding is not None
    assert finding.level is Level.NOTE
    assert "office.example, not for kitchen.example" in finding.text
    covered = check_certificate(Home(tmp_path), write(tmp_path, name="*.example"), _NOW)
    assert covered is not None
    assert covered.level is Level.GOOD


def test_the_devices_own_certificate_is_not_refused(tmp_path: Path) -> None:
    home, config = Home(tmp_path), Config.model_validate({"tls": {"enabled": True}})
    assert check_certificate(home, config, _NOW) is None, "the first start makes it"
    name = host_name(load_device_id(home))
    device_certificate(home.tls, host_name=name)
    finding = check_certificate(home, config, _NOW)
    assert finding is not None
    assert finding.level is Level.GOOD
    assert check_certificate(home, Config(), _NOW) is None
    home.tls.write_bytes(b"no certificate")
    damaged = check_certificate(home, config, _NOW)
    assert damaged is not None
    assert damaged.level is Level.BAD

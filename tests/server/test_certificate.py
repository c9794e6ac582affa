"""A certificate that changes while the server runs: who is shown which, and what a spoilt one does."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from appliance.errors import ConfigError
from appliance.home import Home
from appliance.host.files import write_atomically
from appliance.identity.certificate import device_certificate, pin_of, public_key_pin
from appliance.identity.served_certificate import ServedCertificate
from tests.conftest import RunningServer, a_config, serving

_IN_TIME_S = 60.0
_COMPLAINS = object()


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    return device_certificate(tmp_path / "served.pem", host_name="kitchen.local")


@pytest.fixture
def another(tmp_path: Path) -> Path:
    return device_certificate(tmp_path / "another.pem", host_name="kitchen.local")


@dataclass(frozen=True, slots=True)
class Shown:
    """The outcome of one handshake."""

    pin: str
    session: ssl.SSLSession | None
    is_resumed: bool | None


def shake_hands(server: RunningServer, session: ssl.SSLSession | None = None, *, context: ssl.SSLContext) -> Shown:
    """Ask once over a connection of its own, for the ticket of TLS 1.3 comes with the answer."""
    with (
        socket.create_connection(("127.0.0.1", server.service.port), timeout=10) as sock,
        context.wrap_socket(sock, server_hostname="localhost", session=session) as tls,
    ):
        tls.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert tls.recv(100).startswith(b"HTTP/1.1 200")
        shown = tls.getpeercert(binary_form=True)
        assert shown is not None
        return Shown(public_key_pin(x509.load_der_x509_certificate(shown)), tls.session, tls.session_reused)


def trusting_everybody() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + _IN_TIME_S
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def test_new_connections_are_shown_the_new_certificate_and_open_ones_go_on(
    certificate: Path, another: Path, empty_home: Home
) -> None:
    settings: dict[str, object] = {"enabled": True, "port": 0, "certificate": str(certificate), "key": str(certificate)}
    config = a_config(server={"http": False, "keys": ["sk-of-anybody"]}, tls=settings)
    context, before, after = trusting_everybody(), pin_of(certificate), pin_of(another)
    with serving(config, empty_home) as server, httpx2.Client(base_url=server.root_url, verify=False) as client:
        stream = client.get("/health").extensions["network_stream"]
        first = shake_hands(server, context=context)
        assert shake_hands(server, first.session, context=context).is_resumed
        shutil.copy(another, certificate)
        wait_until(lambda: shake_hands(server, context=context).pin == after)
        assert client.get("/health").extensions["network_stream"] is stream
        with_former_session = shake_hands(server, first.session, context=context)
        wait_until(lambda: json.loads(empty_home.running.read_bytes())["pin"] == after)
    assert first.pin == before
    assert (with_former_session.pin, with_former_session.is_resumed) == (after, False)
    assert not empty_home.running.exists()


def changes(certificate: Path, key: Path, *steps: Callable[[], object]) -> list[str]:
    """The pins after each step that was noticed; a step that leaves nothing to be used is followed by a complaint."""

    async def run() -> list[str]:
        served = await asyncio.to_thread(ServedCertificate, certificate, key)
        pins, noticed = [served.pin], asyncio.Queue[str]()

        async def note() -> None:
            await noticed.put(served.pin)

        async with served.followed(note, interval_s=0.01), asyncio.timeout(_IN_TIME_S):
            for step in steps:
                if await asyncio.to_thread(step) is not _COMPLAINS:
                    pins.append(await noticed.get())
        assert noticed.empty()
        return pins

    return asyncio.run(run())


def spoil(path: Path, content: bytes, log: pytest.LogCaptureFixture) -> Callable[[], object]:
    """Write what cannot be used, and wait until that is said."""

    def step() -> object:
        num_said = len(log.records)
        write_atomically(path, content)
        wait_until(lambda: len(log.records) > num_said)
        return _COMPLAINS

    return step


def renewed(certificate: Path) -> bytes:
    """Another certificate with the same key, as a renewal gives one."""
    key = serialization.load_pem_private_key(certificate.read_bytes(), None)
    former = x509.load_pem_x509_certificate(certificate.read_bytes())
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    builder = x509.CertificateBuilder().subject_name(former.subject).issuer_name(former.issuer)
    builder = builder.not_valid_before(former.not_valid_before_utc).not_valid_after(former.not_valid_after_utc)
    builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def test_a_file_that_is_half_written_or_no_pair_leaves_the_former_one_and_is_said_once(
    certificate: Path, another: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "appliance.identity.served_certificate")
    shown = Path(shutil.copy(certificate, tmp_path / "shown.pem"))
    whole = another.read_bytes()
    pins = changes(
        shown,
        certificate,
        spoil(shown, whole[: len(whole) // 2], caplog),
        spoil(shown, whole, caplog),  # its key is not there yet
        lambda: write_atomically(certificate, whole),
    )
    assert pins == [pins[0], pin_of(another)]
    *complaints, news = [record.getMessage() for record in caplog.records]
    assert all(said.endswith("The former certificate stays in use.") for said in complaints)
    assert len(complaints) == len(set(complaints))
    assert news == f"The certificate is a new one; its pin is {pin_of(another)}"


def test_a_file_that_is_gone_leaves_the_former_one(certificate: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = certificate.read_bytes()

    def remove() -> object:
        certificate.unlink()
        wait_until(lambda: bool(caplog.records))
        return _COMPLAINS

    pins = changes(certificate, certificate, remove, lambda: write_atomically(certificate, content))
    assert pins[0] == pins[1]
    assert "No such file" in caplog.text


def test_a_renewed_certificate_is_shown_and_keeps_its_pin(
    certificate: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "appliance.identity.served_certificate")
    shown = Path(shutil.copy(certificate, tmp_path / "shown.pem"))
    new = renewed(certificate)
    pins = changes(shown, certificate, lambda: write_atomically(shown, new))
    assert pins[0] == pins[1]
    assert "was renewed" in caplog.text


def test_a_key_that_needs_a_password_is_refused_and_nobody_is_asked(certificate: Path, tmp_path: Path) -> None:
    key = serialization.load_pem_private_key(certificate.read_bytes(), None)
    locked = tmp_path / "locked.pem"
    encryption = serialization.BestAvailableEncryption(b"secret")
    locked.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption))
    with pytest.raises(ConfigError, match="cannot be used"):
        ServedCertificate(certificate, locked)

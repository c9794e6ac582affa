"""HTTPS with the device's own certificate, with one's own, and without plain HTTP."""

from __future__ import annotations

import datetime
import shutil
import socket
import ssl
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from cryptography import x509

from appliance.access.claim_code import ClaimCode
from appliance.errors import ConfigError
from appliance.home import Home
from appliance.identity.certificate import device_certificate, pin_of, server_context
from tests.conftest import RunningServer, a_config, serving


@pytest.fixture(scope="module")
def home(starter_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Home:
    root = tmp_path_factory.mktemp("home")
    shutil.copytree(starter_home.trusted_keys, root / "keys" / "trusted")
    (root / "bundles").symlink_to(starter_home.bundles)
    return Home(root)


@pytest.fixture(scope="module")
def secure(home: Home) -> Iterator[RunningServer]:
    config = a_config(server={"http": False}, tls={"enabled": True, "port": 0})
    with serving(config, home) as running:
        yield running


def shake_hands(port: int, context: ssl.SSLContext) -> bytes:
    """The certificate that the server shows."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as sock,
        context.wrap_socket(sock, server_hostname="localhost") as tls,
    ):
        shown = tls.getpeercert(binary_form=True)
        assert shown is not None
        return shown


def test_a_client_that_trusts_the_devices_certificate_is_served(secure: RunningServer, home: Home) -> None:
    assert secure.root_url.startswith("https://")
    trusting = ssl.create_default_context(cafile=home.tls)
    url = secure.root_url.replace("127.0.0.1", "localhost")
    assert httpx2.get(f"{url}/health", verify=trusting).json()["status"] == "ok"


def test_the_certificate_shown_is_the_one_with_the_pin(secure: RunningServer, home: Home, tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    shown = shake_hands(secure.service.port, context)
    (tmp_path / "shown.pem").write_text(ssl.DER_cert_to_PEM_cert(shown))
    assert pin_of(tmp_path / "shown.pem") == pin_of(home.tls)


@pytest.mark.parametrize("year", [2026, 2040])
def test_the_handshake_works_in_any_year_of_a_shelf_life(secure: RunningServer, home: Home, year: int) -> None:
    """OpenSSL's own client, told what time it is."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    at = int(datetime.datetime(year, 6, 1, tzinfo=datetime.UTC).timestamp())
    command = [openssl, "s_client", "-connect", f"127.0.0.1:{secure.service.port}", "-CAfile", str(home.tls)]
    command += ["-attime", str(at), "-verify_return_error", "-verify_hostname", "localhost"]
    result = subprocess.run(command, input="", capture_output=True, text=True, check=False, timeout=30)
    assert "Verify return code: 0 (ok)" in result.stdout, result.stdout + result.stderr


def test_old_protocols_are_refused(secure: RunningServer) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    assert shake_hands(secure.service.port, context)
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        context.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError):
        shake_hands(secure.service.port, context)


def test_plain_http_on_the_port_of_https_is_closed_and_the_next_client_served(secure: RunningServer) -> None:
    with socket.create_connection(("127.0.0.1", secure.service.port), timeout=10) as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"200" not in sock.recv(1000)
    assert httpx2.get(f"{secure.root_url}/health", verify=False).status_code == 200


def test_the_certificate_is_made_once_and_privately(tmp_path: Path) -> None:
    path = device_certificate(tmp_path / "keys" / "tls.pem", host_name="lantern-1.local")
    before = path.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert device_certificate(path, host_name="other").read_bytes() == before
    certificate = x509.load_pem_x509_certificate(before)
    assert certificate.not_valid_before_utc.year == 2026
    assert certificate.not_valid_after_utc == datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["lantern-1.local", "localhost"]


def test_two_devices_have_two_keys(tmp_path: Path) -> None:
    pins = {pin_of(device_certificate(tmp_path / name, host_name="same")) for name in ("a", "b")}
    assert len(pins) == 2


def test_a_key_of_another_certificate_is_one_clear_sentence(tmp_path: Path) -> None:
    one, two = (device_certificate(tmp_path / name, host_name="x") for name in ("a", "b"))
    with pytest.raises(ConfigError, match="cannot be used"):
        server_context(one, two)
    with pytest.raises(ConfigError, match="cannot be used"):
        server_context(tmp_path / "absent.pem", one)


def test_ones_own_certificate_is_served(home: Home, tmp_path: Path) -> None:
    own = device_certificate(tmp_path / "own.pem", host_name="inference.example")
    settings: dict[str, object] = {"enabled": True, "port": 0, "certificate": str(own), "key": str(own)}
    with serving(a_config(tls=settings), home) as server:
        assert httpx2.get(f"{server.root_url}/health").status_code == 200  # plain HTTP stays
    with (
        pytest.raises(ConfigError, match="cannot be used"),
        serving(a_config(tls={**settings, "key": str(home.tls)}), home),
    ):
        pass


def test_the_command_shows_the_pin_and_a_code_for_a_camera(home: Home) -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "appliance", "fingerprint"],
        env={"LANTERN_HOME": str(home.root), "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert printed[0] == pin_of(home.tls)
    assert len(printed) > 10
    openssl = subprocess.run(
        ["openssl", "x509", "-in", str(home.tls), "-noout", "-fingerprint", "-sha256"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert openssl.strip().rpartition("=")[2] in printed[1]


def test_the_command_shows_the_claim_code_to_people_and_the_pin_alone_to_scripts(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    code = ClaimCode(home.claim_code).ensure()

    def printed(*arguments: str) -> str:
        command = [sys.executable, "-m", "appliance", "fingerprint", *arguments]
        variables = {"LANTERN_HOME": str(home.root), "PYTHONIOENCODING": "utf-8"}
        return subprocess.run(command, env=variables, capture_output=True, text=True, check=True).stdout

    assert f"Claim code:    {code}\n" in printed()
    assert printed("--no-qr") == f"{pin_of(home.tls)}\n"

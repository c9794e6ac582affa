"""Servers with certificates of their own, and one that writes down every byte that it is sent."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import keyring
import pytest
from keyring.backend import KeyringBackend
from keyring.errors import PasswordDeleteError

from appliance.discovery.device import Device
from appliance.discovery.record import ServiceRecord
from appliance.home import Home
from appliance.identity.certificate import device_certificate, pin_of, server_context
from tests.lan import ipv4_lan, lan

__all__ = ["ipv4_lan", "lan"]

KEY = "sk-lantern-0123456789"
_BODY = b'{"object": "list", "data": [{"id": "chatty", "object": "model", "created": 0, "owned_by": "x"}]}'
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"


@dataclass
class Recorder:
    """A TLS server that answers every request with a list of models; `said` is what clients wrote, decrypted."""

    port: int
    pin: str
    said: bytearray = field(default_factory=bytearray)
    num_handshakes: int = 0

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}/v1"

    def device(self, name: str = "kitchen", *, device_id: str = "a" * 16, fingerprint: str | None = None) -> Device:
        """The server as the browser would have found it."""
        record = ServiceRecord(device_id, proto="https", fingerprint=fingerprint)
        return Device(name, f"lantern-{device_id[:8]}.local.", self.port, ("127.0.0.1",), record, {})


StartRecorder = Callable[[str], Recorder]


@contextlib.contextmanager
def recorder(certificate: Path) -> Iterator[Recorder]:
    """Serve until the block is left; one thread, one connection at a time."""
    context = server_context(certificate, certificate)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        running = Recorder(listener.getsockname()[1], pin_of(certificate))
        thread = threading.Thread(target=_serve, args=(listener, context, running), name="recorder")
        thread.start()
        try:
            yield running
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def _serve(listener: socket.socket, context: ssl.SSLContext, running: Recorder) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        connection.settimeout(10)
        with contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True) as tls:
            running.num_handshakes += 1
            request = b""
            while b"\r\n\r\n" not in request and (more := tls.recv(65536)):
                running.said += more
                request += more
            if request:
                tls.sendall(_ANSWER % len(_BODY) + _BODY)


@pytest.fixture
def start_recorder(tmp_path: Path) -> Iterator[StartRecorder]:
    """Start servers whose certificates are named; the same name is the same certificate."""
    with contextlib.ExitStack() as stack:

        def start(certificate: str) -> Recorder:
            path = device_certificate(tmp_path / f"{certificate}.pem", host_name="lantern-aaaaaaaa.local")
            return stack.enter_context(recorder(path))

        yield start


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


class MemoryKeyring(KeyringBackend):
    """A keyring backend as the package's own interface wants it."""

    priority = 1.0

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kept: dict[tuple[str, str], str] = {}

    def get_password(self, service: str, username: str) -> str | None:
        return self.kept.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.kept[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        if self.kept.pop((service, username), None) is None:
            raise PasswordDeleteError(username)


@pytest.fixture
def platform_keyring() -> Iterator[MemoryKeyring]:
    """The platform's keyring, empty."""
    former, backend = keyring.get_keyring(), MemoryKeyring()
    keyring.set_keyring(backend)
    yield backend
    keyring.set_keyring(former)


@pytest.fixture(autouse=True)
def _no_key_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LANTERN_API_KEY", raising=False)

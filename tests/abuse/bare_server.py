"""The whole server without a model: real sockets, real application, an empty pool; and raw connections to it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from appliance.config import Config, ServerConfig, TlsConfig
from appliance.home import Home
from appliance.host.thermal import Thermal
from appliance.server.http.connection import DEFAULT_LIMITS, ConnectionLimits
from appliance.server.http.listener import Listener
from appliance.service.composition import compose

HEAD = b"Host: localhost\r\nContent-Type: application/json\r\n"


@dataclass(frozen=True, slots=True)
class BareServer:
    """A listener on a loopback port."""

    port: int
    listener: Listener

    def connect(self, data: bytes = b"", *, timeout_s: float = 20.0, source: str = "") -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self.port), timeout_s, (source, 0) if source else None)
        if data:
            sock.sendall(data)
        return sock

    def get(self, path: str = "/v1/models") -> tuple[int, dict[str, str], Any]:
        with self.connect(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()) as sock:
            return answer_of(sock)


def answer_of(sock: socket.socket) -> tuple[int, dict[str, str], Any]:
    """Everything until the server closes: status, headers in lower case, the JSON body."""
    received = b""
    while part := sock.recv(65536):
        received += part
    head, _, body = received.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return int(status.split()[1]), headers, json.loads(body)


def is_error_object(body: Any) -> bool:
    return set(body) == {"error"} and set(body["error"]) == {"message", "type", "param", "code"}


@contextlib.contextmanager
def bare_server(
    root: Path,
    limits: ConnectionLimits = DEFAULT_LIMITS,
    *,
    secure: bool = False,
    thermal: Thermal | None = None,
    **settings: object,
) -> Iterator[BareServer]:
    """Serve until the block is left; in clear, or only over TLS. `settings` are those of the section [server]."""
    caps = {"max_connections": limits.max_connections, "max_connections_per_address": limits.max_per_address}
    server = ServerConfig().model_copy(update={"port": 0, "http": not secure, **caps, **settings})
    config = Config().model_copy(update={"server": server, "tls": TlsConfig(enabled=secure, port=0)})
    fast = replace(limits, close_timeout_s=0.2)
    parts = compose(config, Home(root), limits=fast, read_heat=lambda: thermal or Thermal())
    ready, stop = threading.Event(), asyncio.Event()

    async def serve() -> None:
        async with parts.heat, parts.listener as listener:
            await listener.accept()
            ready.set()
            await stop.wait()
        parts.endpoints.close()
        parts.text_threads.shutdown(wait=False)

    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        thread = threading.Thread(target=runner.run, args=(serve(),), name="bare-server")
        thread.start()
        try:
            assert ready.wait(10)
            yield BareServer(parts.endpoints.port, parts.listener)
        finally:
            loop.call_soon_threadsafe(stop.set)
            thread.join(10)

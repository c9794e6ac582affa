"""The whole server without a model: real sockets, real application, an empty pool; and raw connections to it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.bundle import BundleStore, TrustedKeys
from appliance.host.thermal import Thermal
from appliance.models import EngineSettings, ModelPool
from appliance.server.app import make_app
from appliance.server.context import ServerContext
from appliance.server.guard import Guard
from appliance.server.keys import KeyRing
from appliance.server.limits import DEFAULT_LIMITS, ConnectionLimits
from appliance.server.listener import Listener, bind

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
    keys: KeyRing | None = None,
    tls: ssl.SSLContext | None = None,
    thermal: Callable[[], Thermal] = Thermal,
) -> Iterator[BareServer]:
    """Serve until the block is left; in clear, or only over TLS where there is a context."""
    pool = ModelPool(
        BundleStore(root / "bundles", TrustedKeys({})),
        cache=root / "cache",
        settings=EngineSettings(),
        aliases={},
        on_failure=print,
    )
    started: list[BareServer] = []
    ready, stop = threading.Event(), asyncio.Event()

    async def serve() -> None:
        with ThreadPoolExecutor(1, thread_name_prefix="text") as threads:
            guard = Guard(host_names=[])
            context = ServerContext(pool, keys or KeyRing([]), guard, threads, started_s=0, thermal=thermal)
            sockets = bind("127.0.0.1", 0)
            plain, secure = ((), sockets) if tls is not None else (sockets, ())
            listener = Listener(make_app(context), plain, tls_sockets=secure, tls=tls, limits=limits)
            await listener.start()
            started.append(BareServer(sockets[0].getsockname()[1], listener))
            ready.set()
            await stop.wait()
            await listener.close(timeout_s=0.2)

    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        thread = threading.Thread(target=runner.run, args=(serve(),), name="bare-server")
        thread.start()
        try:
            assert ready.wait(10)
            yield started[0]
        finally:
            loop.call_soon_threadsafe(stop.set)
            thread.join(10)

"""A way to a server that can be cut, as a cable can, and mended."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType
from typing import Self


class Cable:
    """A port that leads to another one on this machine until the block is left."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._ends: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._is_cut = self._is_over = False
        self._flows = threading.Event()  # from the device to the client
        self._flows.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}/"

    def cut(self) -> None:
        """End all connections, and refuse new ones."""
        self._is_cut = True
        for end in self._ends:
            _end(end)

    def lead_to(self, port: int) -> None:
        """End all connections; the next ones lead to another port."""
        self._port = port
        for end in self._ends:
            _end(end)

    def hold(self) -> None:
        """Keep back what the device says, and let through what it is told."""
        self._flows.clear()

    def release(self) -> None:
        self._flows.set()

    def mend(self) -> None:
        self._is_cut = False

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over = True
        socket.create_connection(self._listener.getsockname()).close()
        self.release()
        self.cut()
        for thread in self._threads:
            thread.join()
        for end in (*self._ends, self._listener):
            end.close()

    def _start(self, work: object, *args: socket.socket | threading.Event | None) -> None:
        assert callable(work)
        self._threads.append(threading.Thread(target=work, args=args))
        self._threads[-1].start()

    def _accept(self) -> None:
        while not self._is_over:
            client, _ = self._listener.accept()
            if self._is_over or self._is_cut:
                client.close()
                continue
            device = socket.create_connection(("127.0.0.1", self._port))
            self._ends += [client, device]
            self._start(_pump, client, device, None)
            self._start(_pump, device, client, self._flows)


def _pump(source: socket.socket, target: socket.socket, flows: threading.Event | None) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            if flows is not None:
                flows.wait()
            target.sendall(data)
    _end(source)
    _end(target)


def _end(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)

"""A model hub on the loopback: the few calls of its API that a download makes, and what goes wrong with them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import cast

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass(slots=True)
class FakeHub:
    """One repository; tests change its fields while it runs. `requests` holds (method, path, Range, Authorization)."""

    name: str
    files: dict[str, bytes]
    gated_without_token: bool = False
    cut_after_bytes: int | None = None
    url: str = ""
    requests: list[tuple[str, str, str | None, str | None]] = field(default_factory=list)

    def downloads_of(self, name: str) -> list[str | None]:
        """The Range of every GET of a file."""
        return [part for method, path, part, _ in self.requests if method == "GET" and path.endswith(f"/{name}")]


@contextlib.contextmanager
def serving(hub: FakeHub) -> Iterator[FakeHub]:
    """Serve until the block is left."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.hub = hub
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Server(ThreadingHTTPServer):
    hub: FakeHub


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def log_message(self, *_: object) -> None: ...

    @property
    def _hub(self) -> FakeHub:
        return cast("_Server", self.server).hub

    def _answer(self, *, with_body: bool) -> None:
        hub, token = self._hub, self.headers.get("Authorization")
        hub.requests.append((self.command, self.path, self.headers.get("Range"), token))
        if hub.gated_without_token and token is None:
            self._refuse(403, "GatedRepo")
        elif self.path.startswith(f"/api/models/{hub.name}/revision/"):
            self._describe()
        elif self.path.startswith(f"/{hub.name}/resolve/"):
            self._send_file(self.path.split("/resolve/", 1)[1].split("/", 1)[1], with_body=with_body)
        else:
            self._refuse(404, "RepoNotFound")

    def _describe(self) -> None:
        if self.path.rsplit("/", 1)[1] not in {"main", COMMIT}:
            self._refuse(404, "RevisionNotFound")
            return
        siblings = [{"rfilename": name} for name in self._hub.files]
        body = json.dumps({"id": self._hub.name, "sha": COMMIT, "siblings": siblings}).encode()
        self._start(200, {"Content-Type": "application/json", "Content-Length": str(len(body))})
        self.wfile.write(body)

    def _send_file(self, name: str, *, with_body: bool) -> None:
        content = self._hub.files.get(name)
        if content is None:
            self._refuse(404, "EntryNotFound")
            return
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        part = content[start:]
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
        self._start(206 if start else 200, {**headers, "Content-Length": str(len(part))})
        cut = self._hub.cut_after_bytes
        if with_body and cut is not None and len(part) > cut:
            self.wfile.write(part[:cut])
            self.close_connection = True
        elif with_body:
            self.wfile.write(part)

    def _refuse(self, status: int, code: str) -> None:
        self._start(status, {"X-Error-Code": code, "Content-Length": "0"})

    def _start(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

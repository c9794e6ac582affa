"""The sockets of the service: those that the service manager holds for it, else those that it binds itself."""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass

from appliance.config import Config
from appliance.errors import ConfigError
from appliance.host.addresses import is_loopback
from appliance.host.sockets import bind, passed_sockets

_HTTPS = "https"  # FileDescriptorName in lantern-tls.socket
_HTTPS_PORT = 443


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Bound sockets by protocol. What arrives while passed ones are not read waits for the next process."""

    http: tuple[socket.socket, ...]
    https: tuple[socket.socket, ...]
    are_passed: bool = False

    @property
    def all(self) -> tuple[socket.socket, ...]:
        """All sockets, plain ones first."""
        return self.http + self.https

    @property
    def is_exposed(self) -> bool:
        """True if other machines can connect."""
        return not all(is_loopback(sock.getsockname()[0]) for sock in self.all)

    @property
    def port(self) -> int:
        """The port of the first socket: plain HTTP if it is served."""
        port: int = self.all[0].getsockname()[1]
        return port

    @property
    def https_port(self) -> int | None:
        """The port of HTTPS, if it is served."""
        return self.https[0].getsockname()[1] if self.https else None

    @property
    def page_port(self) -> int | None:
        """The port of HTTPS in the address of the page: the one that people leave out, if it is among them."""
        ports = [sock.getsockname()[1] for sock in self.https]
        return _HTTPS_PORT if _HTTPS_PORT in ports else next(iter(ports), None)

    @property
    def protocol(self) -> str:
        """The protocol of `port`."""
        return "http" if self.http else "https"

    @property
    def root_url(self) -> str:
        """The URL for clients on this machine."""
        host = str(self.all[0].getsockname()[0])
        if host in {"", "0.0.0.0", "::"}:  # noqa: S104
            host = "127.0.0.1"
        return f"{self.protocol}://{f'[{host}]' if ':' in host else host}:{self.port}"

    def close(self) -> None:
        """Close the sockets; passed ones stay open in the service manager."""
        for sock in self.all:
            sock.close()


def open_endpoints(config: Config) -> Endpoints:
    """Take the sockets that were passed, or bind those of the settings.

    Raises:
        ConfigError: an address or a port that cannot be used.
    """
    passed = passed_sockets()
    if passed:
        https = tuple(p.socket for p in passed if p.name == _HTTPS)
        if config.tls.enabled and not https:
            https = tuple(_bind(config.server.host, config.tls.port))
        return Endpoints(tuple(p.socket for p in passed if p.name != _HTTPS), https, are_passed=True)
    host = config.server.host
    with contextlib.ExitStack() as undo:
        http = _bind(host, config.server.port) if config.server.http else []
        for sock in http:
            undo.callback(sock.close)
        https = tuple(_bind(host, config.tls.port)) if config.tls.enabled else ()
        undo.pop_all()
    return Endpoints(tuple(http), https)


def own_host_names(config: Config, announced: str) -> set[str]:
    """Return the names under which clients may address this server: announced, the machine's, those of the settings."""
    names = {*config.server.host_names, announced, socket.gethostname()}
    return names | {f"{name.partition('.')[0]}.local" for name in names}


def _bind(host: str, port: int) -> list[socket.socket]:
    try:
        return bind(host, port)
    except OSError as err:
        reason = err.strerror or str(err)
        raise ConfigError(
            f"{host}:{port} cannot be used: {reason.lower()}; choose another with --port or --host."
        ) from err

"""Where the service listens: on sockets that the service manager holds for it, else on those that it binds itself."""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass

from appliance.config import Config
from appliance.errors import ConfigError
from appliance.host.addresses import is_loopback
from appliance.host.sockets import passed_sockets
from appliance.server.listener import bind

_HTTPS = "https"  # FileDescriptorName in lantern-tls.socket


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Bound sockets by protocol. What comes in while passed ones are not read waits for the next process."""

    http: tuple[socket.socket, ...]
    https: tuple[socket.socket, ...]
    are_passed: bool = False

    @property
    def all(self) -> tuple[socket.socket, ...]:
        """Plain ones first."""
        return self.http + self.https

    @property
    def is_exposed(self) -> bool:
        """Whether others than this machine can connect."""
        return not all(is_loopback(sock.getsockname()[0]) for sock in self.all)

    def close(self) -> None:
        """Let go of them; passed ones stay open in the service manager."""
        for sock in self.all:
            sock.close()


def open_endpoints(config: Config) -> Endpoints:
    """Take what was passed, or bind what the settings say.

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
    """The names under which clients may address this server: announced, the machine's, those of the settings."""
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

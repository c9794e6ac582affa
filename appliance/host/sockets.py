"""Sockets that the service manager bound for us, sd_listen_fds(3): a restart keeps them, and with them who waits."""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping
from dataclasses import dataclass

_FIRST_FD = 3  # SD_LISTEN_FDS_START


@dataclass(frozen=True, slots=True)
class PassedSocket:
    """A listening socket and the name that its unit gave it by FileDescriptorName."""

    name: str
    socket: socket.socket


def passed_sockets(
    environment: MutableMapping[str, str] = os.environ, *, first_fd: int = _FIRST_FD
) -> list[PassedSocket]:
    """Take over the passed sockets; a second call finds none, nor does a child process."""
    pid, count = environment.pop("LISTEN_PID", ""), environment.pop("LISTEN_FDS", "")
    names = environment.pop("LISTEN_FDNAMES", "").split(":")
    if not count.isdigit() or pid != str(os.getpid()):
        return []
    found = []
    for i in range(int(count)):
        sock = socket.socket(fileno=first_fd + i)
        sock.set_inheritable(False)
        sock.setblocking(False)
        found.append(PassedSocket(names[i] if i < len(names) else "", sock))
    return found


def bind(host: str, port: int) -> list[socket.socket]:
    """Bind a host name or address; "" and "0.0.0.0" with "::" take both families if they can.

    Raises:
        OSError: the port is in use, or the address is not one of this machine's.
    """
    infos = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(infos):
            sock = socket.socket(family, kind, protocol)
            sockets.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(address)
            sock.setblocking(False)
            if port == 0:
                break
    except OSError:
        for sock in sockets:
            sock.close()
        raise
    return sockets

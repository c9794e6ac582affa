"""The service manager's notification protocol, sd_notify(3): one datagram a message, nothing without systemd."""

from __future__ import annotations

import os
import socket


def notify(message: str, *, address: str | None = None) -> bool:
    """Send `READY=1`, `STOPPING=1`, `WATCHDOG=1` or `STATUS=...`; False where nobody listens."""
    target = address if address is not None else os.environ.get("NOTIFY_SOCKET")
    if not target:
        return False
    if target.startswith("@"):
        target = "\0" + target[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.sendto(message.encode(), target)
        except OSError:
            return False
    return True


def watchdog_interval_s() -> float | None:
    """Half of what `WatchdogSec` allows (sd_watchdog_enabled(3)), or None where no watchdog is set."""
    usec, pid = os.environ.get("WATCHDOG_USEC"), os.environ.get("WATCHDOG_PID")
    if not usec or (pid and pid != str(os.getpid())):
        return None
    return int(usec) / 2e6

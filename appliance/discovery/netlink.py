"""Tells when links or addresses of this machine change, by the kernel's own word (rtnetlink); Linux only.

Where there is no netlink, or a sandbox without it, nothing is told, and whoever asked looks from time to time all the
same.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator

_GROUPS = 0x1 | 0x10 | 0x100  # RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR of linux/rtnetlink.h
_SETTLE_S = 0.2  # a cable that is plugged in is several messages
_MESSAGE_BYTES = 65536


@contextlib.contextmanager
def link_changes(on_change: Callable[[], None]) -> Iterator[None]:
    """Call back on the running loop, once for changes that come together, until the block is left."""
    loop = asyncio.get_running_loop()
    pending: asyncio.TimerHandle | None = None

    def read() -> None:
        nonlocal pending
        with contextlib.suppress(OSError):  # the kernel drops messages that are not read in time: that is a change too
            while sock.recv(_MESSAGE_BYTES):
                pass
        if pending is None or pending.when() <= loop.time():
            pending = loop.call_later(_SETTLE_S, on_change)

    try:
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
    except (AttributeError, OSError):
        yield
        return
    with sock:
        sock.bind((0, _GROUPS))
        loop.add_reader(sock, read)
        try:
            yield
        finally:
            loop.remove_reader(sock)
            if pending is not None:
                pending.cancel()

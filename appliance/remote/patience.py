"""The time that a device is waited for, by what it has to do; in seconds.

A connection is taken by the device's kernel, however busy its processor is: no answer to that is a device that is not
there. A TLS handshake needs the process to run, which a small board under load may take long to let it.
"""

from __future__ import annotations

from dataclasses import dataclass

ATTEMPT_DELAY_S = 0.25
"""Until the next address of a host is tried beside the former ones (RFC 8305, section 5)."""


@dataclass(frozen=True, slots=True)
class Patience:
    """`connect_s` is for all addresses of a host together, which are tried beside one another."""

    connect_s: float
    handshake_s: float


ASKED_FOR = Patience(connect_s=10.0, handshake_s=30.0)
"""For the one device that is meant. A packet that is lost is sent again after 1, 3 and 7 s (RFC 6298)."""

ONE_OF_MANY = Patience(connect_s=4.0, handshake_s=5.0)
"""For each device that was found: the others wait for it."""

"""The text on the screen of a device: its addresses, fingerprint and claim code, or who claimed it; never a key.

`python -m appliance.system.console` prints it once; console.sh calls it whenever something of it changes.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from appliance import __version__
from appliance.access.claim import ClaimRecord, read_claim
from appliance.access.claim_code import read_code
from appliance.access.local import read_run_file
from appliance.errors import ConfigError
from appliance.home import Home
from appliance.identity.certificate import Fingerprints, fingerprints_of
from appliance.system.screen_code import screen_code

_HOME = Home(Path("/var/lib/lantern"))
_PROBLEMS = Path("/run/lantern/problems")
_MAX_PROBLEMS = 8
_MAX_ADDRESSES = 4  # a screen of 640 by 480 pixels has 30 lines, and 17 of them are for the QR code


@dataclass(frozen=True, slots=True)
class Screen:
    """The facts on the screen. `code` is there while the device can be claimed with one; `claim` once it is claimed."""

    host: str
    addresses: tuple[str, ...] = ()
    alias: str | None = None
    fingerprints: Fingerprints | None = None
    code: str | None = None
    claim: ClaimRecord | None = None
    problems: tuple[str, ...] = ()


def main() -> int:
    """Print the page of this device."""
    try:
        fingerprints = fingerprints_of(_HOME.tls)
    except ConfigError:
        fingerprints = None
    running = read_run_file(_HOME.running)
    screen = Screen(
        socket.gethostname(),
        tuple(addresses_in(_links())),
        running.alias if running is not None else None,
        fingerprints=fingerprints,
        code=read_code(_HOME.claim_code),
        claim=read_claim(_HOME.claimed),
        problems=tuple(_PROBLEMS.read_text("utf-8").splitlines()) if _PROBLEMS.exists() else (),
    )
    sys.stdout.write(page(screen))
    return 0


def page(screen: Screen) -> str:
    """Return the lines for a person in front of the screen."""
    addresses = [f"[{a}]" if ":" in a else a for a in screen.addresses[:_MAX_ADDRESSES]]
    names = [f"{screen.host}.local", *addresses]
    short = [f"http://{screen.alias}/"] if screen.alias else []
    lines = [f"Lantern {__version__} on {screen.host}", ""]
    lines += _listed("In a browser", [*short, *(f"https://{name}/" for name in names)])
    if screen.code is None:
        lines += _listed("For programs", [f"http://{name}/v1" for name in names])
    if not screen.addresses:
        lines.append("  (no network yet: plug in a cable, or write Wi-Fi into lantern.toml on the card)")
    lines += [*_fingerprint(screen.fingerprints), "", *_claim(screen)]
    if screen.problems:
        shown = screen.problems[:_MAX_PROBLEMS]
        lines += ["", "  Not understood on the boot partition, and left out:", *(f"    {p}" for p in shown)]
    return "\n".join(lines) + "\n"


def addresses_in(links: str) -> list[str]:
    """Return a device's addresses on its networks, IPv4 first, from the output of `ip -json`.

    Addresses that ip filtered out remain in it as empty objects.
    """
    found = [
        str(address["local"])
        for link in json.loads(links or "[]")
        for address in link.get("addr_info", [])
        if "local" in address and not (address.get("temporary") or address.get("deprecated"))
    ]
    return sorted(found, key=lambda a: (":" in a, a))


def _listed(label: str, values: list[str]) -> list[str]:
    """Return a line for each value, the first one with the label."""
    return [f"  {label if i == 0 else '':<14}{value}" for i, value in enumerate(values)]


def _fingerprint(fingerprints: Fingerprints | None) -> list[str]:
    """Return the certificate's fingerprint as browsers show it, and the pin that the commands compare."""
    if fingerprints is None:
        return _listed("Fingerprint", ["(when the appliance has started)"])
    half = len(fingerprints.certificate) // 2 + 1
    halves = [fingerprints.certificate[:half], fingerprints.certificate[half:]]
    return [*_listed("Fingerprint", halves), *_listed("Pin", [fingerprints.pin])]


def _claim(screen: Screen) -> list[str]:
    """Return who claimed the device, or how to claim it. A code is there again after the file claim-again."""
    lines = [f"  {screen.claim.sentence()}"] if screen.claim is not None else []
    if screen.claim is not None and screen.code is None:
        return lines
    again = "It can be claimed once more" if screen.claim is not None else "Nobody has claimed this device yet"
    if screen.code is None:
        return [
            *lines,
            f"  {again}. On a computer in the same network:  lantern claim --device {screen.host}",
            "  and compare the fingerprint that it shows with the one above.",
        ]
    return [
        *lines,
        f"  {again}.  Claim code  {screen.code}",
        "  Open the page above in a browser, compare the fingerprint, and enter the code;",
        f"  or scan this; or run: lantern claim --device {screen.host} --code {screen.code}",
        *(f"  {line}" for line in screen_code(f"https://{screen.host}.local/#claim={screen.code}")),
    ]


def _links() -> str:
    command = ["/usr/sbin/ip", "-json", "address", "show", "scope", "global"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout  # noqa: S603


if __name__ == "__main__":
    sys.exit(main())

"""The text on the screen of a device: its addresses, its fingerprint, and how to claim it; never a key.

`python -m appliance.image.console` prints it once; console.sh calls it whenever an address changes.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

from appliance import __version__
from appliance.errors import ConfigError
from appliance.home import Home
from appliance.tls import pin_of

_HOME = Home(Path("/var/lib/lantern"))
_PROBLEMS = Path("/run/lantern/problems")


def main() -> int:
    """Print the page of this device."""
    try:
        pin = pin_of(_HOME.tls)
    except ConfigError:
        pin = None
    problems = _PROBLEMS.read_text("utf-8").splitlines() if _PROBLEMS.exists() else []
    text = page(socket.gethostname(), addresses_in(_links()), pin, is_claimed=_HOME.claimed.exists(), problems=problems)
    sys.stdout.write(text)
    return 0


def page(host: str, addresses: list[str], pin: str | None, *, is_claimed: bool, problems: list[str]) -> str:
    """The lines for a person in front of the screen."""
    lines = [
        f"Lantern {__version__} on {host}",
        "",
        f"  http://{host}.local/v1",
        *(f"  http://{f'[{a}]' if ':' in a else a}/v1" for a in addresses),
    ]
    if not addresses:
        lines.append("  (no network yet: plug in a cable, or write Wi-Fi into lantern.toml on the card)")
    lines += ["", f"  Fingerprint  {pin or '(when the appliance has started)'}", ""]
    if is_claimed:
        lines.append("  This device is claimed.")
    else:
        lines += [f"  Nobody has claimed this device yet. On a computer in the same network:  lantern claim {host}"]
        lines += ["  and compare the fingerprint that it shows with the one above."]
    if problems:
        lines += ["", "  Not understood on the boot partition, and left out:", *(f"    {p}" for p in problems[:8])]
    return "\n".join(lines) + "\n"


def addresses_in(links: str) -> list[str]:
    """A device's addresses on its networks, IPv4 first, out of what `ip -json` says.

    What a filter of ip leaves out remains there as an empty object.
    """
    found = [
        str(address["local"])
        for link in json.loads(links or "[]")
        for address in link.get("addr_info", [])
        if "local" in address and not (address.get("temporary") or address.get("deprecated"))
    ]
    return sorted(found, key=lambda a: (":" in a, a))


def _links() -> str:
    command = ["/usr/sbin/ip", "-json", "address", "show", "scope", "global"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout  # noqa: S603


if __name__ == "__main__":
    sys.exit(main())

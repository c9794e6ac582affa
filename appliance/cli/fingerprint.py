"""`lantern fingerprint`: the pin of this device's certificate, as text and as a QR code."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import segno

from appliance.config import load_config
from appliance.discovery.identity import host_name, load_device_id
from appliance.home import lantern_home
from appliance.tls import device_certificate, pin_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings (default: lantern.toml in LANTERN_HOME)")
    parser.add_argument("--no-qr", action="store_true", help="print the text only")


def run(args: argparse.Namespace) -> int:
    """Print the pin; makes the certificate where there is none yet.

    Raises:
        ConfigError: the settings name a certificate that cannot be read.
    """
    home = lantern_home()
    default = home.root / "lantern.toml"
    settings = load_config(args.config or (default if default.exists() else None)).tls
    if settings.certificate:
        certificate = Path(settings.certificate)
    else:
        certificate = device_certificate(home.tls, host_name=host_name(load_device_id(home)))
    pin = pin_of(certificate)
    print(pin)
    if not args.no_qr:
        segno.make_qr(pin).terminal(out=sys.stdout, compact=True)
    return 0

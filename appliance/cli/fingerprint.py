"""`lantern fingerprint`: this device's certificate as commands and browsers show it, and its claim code."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import segno

from appliance.access.claim_code import read_code
from appliance.config import load_config
from appliance.home import lantern_home
from appliance.identity.certificate import device_certificate, fingerprints_of
from appliance.identity.device_id import host_name, load_device_id


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings (default: lantern.toml in LANTERN_HOME)")
    parser.add_argument("--no-qr", action="store_true", help="print the pin only, for scripts")


def run(args: argparse.Namespace) -> int:
    """Print the pin, the fingerprint that browsers show, and a code that a claim needs; make the certificate if absent.

    Raises:
        ConfigError: the settings name a certificate that cannot be read.
    """
    home = lantern_home()
    settings = load_config(home.settings_file(args.config)).tls
    if settings.certificate:
        certificate = Path(settings.certificate)
    else:
        certificate = device_certificate(home.tls, host_name=host_name(load_device_id(home)))
    fingerprints = fingerprints_of(certificate)
    print(fingerprints.pin)
    if args.no_qr:
        return 0
    print(f"Browsers show: {fingerprints.certificate}")
    if (code := read_code(home.claim_code)) is not None:
        print(f"Claim code:    {code}")
    segno.make_qr(fingerprints.pin).terminal(out=sys.stdout, compact=True)
    return 0

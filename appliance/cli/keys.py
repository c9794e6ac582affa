"""`lantern keys`: make, list and revoke the keys that clients use; a running server notices within a second."""

from __future__ import annotations

import argparse
import time

from appliance.home import lantern_home
from appliance.keystore import KeyStore, Role


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the three verbs."""
    verbs = parser.add_subparsers(dest="keys_verb", required=True, metavar="VERB")
    create = verbs.add_parser("create", help="make a key and show it, once")
    create.add_argument("name", help="whose it is, such as a device or a person")
    create.add_argument("--admin", action="store_true", help="it may administer, too")
    create.add_argument("--rate", type=_rate, metavar="N/min", help="requests a minute (default: any number)")
    verbs.add_parser("list", help="show what keys there are, which is not the keys")
    verbs.add_parser("revoke", help="forget a key").add_argument("name")


def run(args: argparse.Namespace) -> int:
    """Do it, in LANTERN_HOME.

    Raises:
        ConfigError: a name that is taken, unknown or not valid.
    """
    store = KeyStore(lantern_home().api_keys)
    match args.keys_verb:
        case "create":
            new = store.create(args.name, role=Role.ADMINISTRATION if args.admin else Role.INFERENCE, rate=args.rate)
            print(f"{new.secret}\n\nThis is the key {args.name!r}. It is not kept and cannot be shown again.")
        case "revoke":
            store.revoke(args.name)
            print(f"The key {args.name!r} is revoked.")
        case _:
            _print_keys(store)
    return 0


def _print_keys(store: KeyStore) -> None:
    for key in store.all():
        made = time.strftime("%Y-%m-%d", time.localtime(key.created_s))
        rate = f"{key.rate}/min" if key.rate is not None else "any rate"
        print(f"{key.name:24} {key.id}  {key.role.value:14}  {rate:12}  {made}")


def _rate(text: str) -> int:
    number = text.removesuffix("/min")
    if not number.isascii() or not number.isdigit() or int(number) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number of requests a minute, such as 60/min")
    return int(number)

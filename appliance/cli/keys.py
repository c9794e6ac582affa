"""`lantern keys`: make, list and revoke the keys that clients use; a running server notices within a second."""

from __future__ import annotations

import argparse
import asyncio
import time

from appliance.cli.administered import add_on
from appliance.home import lantern_home
from appliance.keystore import KeyStore, Role
from appliance.remote import open_device
from appliance.remote.administration import RemoteAdministration


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the three verbs."""
    verbs = parser.add_subparsers(dest="keys_verb", required=True, metavar="VERB")
    create = verbs.add_parser("create", help="make a key and show it, once")
    create.add_argument("name", help="whose it is, such as a device or a person")
    create.add_argument("--admin", action="store_true", help="it may administer, too")
    create.add_argument("--rate", type=_rate, metavar="N/min", help="requests a minute (default: any number)")
    verbs.add_parser("list", help="show what keys there are, which is not the keys")
    verbs.add_parser("revoke", help="forget a key").add_argument("name")
    for verb in verbs.choices.values():
        add_on(verb)


def run(args: argparse.Namespace) -> int:
    """Do it, in LANTERN_HOME or on another device.

    Raises:
        ConfigError: a name that is unknown or not valid.
        ConflictError: a name that is taken.
        DeviceError: the other device refuses.
    """
    role = Role.ADMINISTRATION if args.keys_verb == "create" and args.admin else Role.INFERENCE
    match args.keys_verb:
        case "create":
            secret = asyncio.run(_create_on(args, role)) if args.on else _create(args, role)
            print(f"{secret}\n\nThis is the key {args.name!r}. It is not kept and cannot be shown again.")
        case "revoke":
            if args.on:
                asyncio.run(_revoke_on(args))
            else:
                KeyStore(lantern_home().api_keys).revoke(args.name)
            print(f"The key {args.name!r} is revoked.")
        case _:
            if args.on:
                asyncio.run(_list_on(args))
            else:
                _list()
    return 0


def _create(args: argparse.Namespace, role: Role) -> str:
    return KeyStore(lantern_home().api_keys).create(args.name, role=role, rate=args.rate).secret


async def _create_on(args: argparse.Namespace, role: Role) -> str:
    async with open_device(args.on) as device:
        made = await RemoteAdministration(device.session).create_key(args.name, role=role.value, rate=args.rate)
    return str(made["key"])


async def _revoke_on(args: argparse.Namespace) -> None:
    async with open_device(args.on) as device:
        await RemoteAdministration(device.session).revoke_key(args.name)


async def _list_on(args: argparse.Namespace) -> None:
    async with open_device(args.on) as device:
        for key in await RemoteAdministration(device.session).keys():
            _print_key(key["name"], key["id"], key["role"], key["rate"], key["created"])


def _list() -> None:
    for key in KeyStore(lantern_home().api_keys).all():
        _print_key(key.name, key.id, key.role.value, key.rate, key.created_s)


def _print_key(name: str, key_id: str, role: str, rate: int | None, created_s: int) -> None:
    made = time.strftime("%Y-%m-%d", time.localtime(created_s))
    print(f"{name:24} {key_id}  {role:14}  {f'{rate}/min' if rate is not None else 'any rate':12}  {made}")


def _rate(text: str) -> int:
    number = text.removesuffix("/min")
    if not number.isascii() or not number.isdigit() or int(number) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number of requests a minute, such as 60/min")
    return int(number)

"""`lantern keys`: create, list and revoke the API keys of clients; a running server notices within a second."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Protocol

from appliance.access.key_info import ApiKeyInfo, NewApiKey, describe_key, describe_new_key
from appliance.access.keystore import KeyStore, Role
from appliance.access.usage import read_last_use
from appliance.cli.selection import add_device
from appliance.home import Home, lantern_home
from appliance.remote import open_device
from appliance.remote.administration import RemoteAdministration


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the three verbs."""
    verbs = parser.add_subparsers(dest="keys_verb", required=True, metavar="VERB")
    create = verbs.add_parser("create", help="create a key and show it, once")
    create.add_argument("name", help="a name for it, such as that of a device or a person")
    create.add_argument("--admin", action="store_true", help="let it administer, too")
    create.add_argument("--rate", type=_rate, metavar="N/min", help="requests a minute (default: any number)")
    verbs.add_parser("list", help="show names, roles and rates, never the keys themselves")
    verbs.add_parser("revoke", help="revoke a key").add_argument("name")
    for verb in verbs.choices.values():
        add_device(verb, "this machine")


def run(args: argparse.Namespace) -> int:
    """Create, list or revoke API keys, in LANTERN_HOME or on another device.

    Raises:
        ConfigError: a name that is unknown or not valid.
        ConflictError: a name that is taken.
        DeviceError: the other device refuses.
    """
    asyncio.run(_run(args))
    return 0


async def _run(args: argparse.Namespace) -> None:
    async with _keys(args.device) as keys:
        match args.keys_verb:
            case "create":
                role = Role.ADMINISTRATION if args.admin else Role.INFERENCE
                new = await keys.create_key(args.name, role=role.value, rate=args.rate)
                print(f"{new['key']}\n\nThis is the key {args.name!r}. It is not kept and cannot be shown again.")
            case "revoke":
                await keys.revoke_key(args.name)
                print(f"The key {args.name!r} is revoked.")
            case _:
                for key in await keys.keys():
                    _print_key(key["name"], key["id"], key["role"], key["rate"], key["created"])


class _Keys(Protocol):
    async def keys(self) -> list[ApiKeyInfo]:
        """Return the metadata of every key."""

    async def create_key(self, name: str, *, role: str, rate: int | None) -> NewApiKey:
        """Create a key; the answer has its secret, once."""

    async def revoke_key(self, name: str) -> None:
        """Revoke a key."""


class _KeysOfHome:
    """The keys of LANTERN_HOME, with the methods of a device's administration."""

    def __init__(self, home: Home) -> None:
        self._store = KeyStore(home.api_keys)
        self._used = home.keys_used

    async def keys(self) -> list[ApiKeyInfo]:
        used = await asyncio.to_thread(read_last_use, self._used)
        return [describe_key(key, used.get(key.id)) for key in await asyncio.to_thread(self._store.all)]

    async def create_key(self, name: str, *, role: str, rate: int | None) -> NewApiKey:
        new = await asyncio.to_thread(self._store.create, name, role=Role(role), rate=rate)
        return describe_new_key(new)

    async def revoke_key(self, name: str) -> None:
        await asyncio.to_thread(self._store.revoke, name)


@contextlib.asynccontextmanager
async def _keys(on: str | None) -> AsyncIterator[_Keys]:
    if on is None:
        yield _KeysOfHome(lantern_home())
        return
    async with open_device(on) as device:
        yield RemoteAdministration(device.session)


def _print_key(name: str, key_id: str, role: str, rate: int | None, created_s: int) -> None:
    made = time.strftime("%Y-%m-%d", time.localtime(created_s))
    print(f"{name:24} {key_id}  {role:14}  {f'{rate}/min' if rate is not None else 'any rate':12}  {made}")


def _rate(text: str) -> int:
    number = text.removesuffix("/min")
    if not number.isascii() or not number.isdigit() or int(number) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number of requests a minute, such as 60/min")
    return int(number)

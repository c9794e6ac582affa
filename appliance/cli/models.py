"""`lantern models`: list, install, remove and roll back models, give them other names, and say whose models may run.

Through the server that runs on this machine, else on its files; with `--on DEVICE` on another machine, whose key for
administration comes from LANTERN_API_KEY or the platform's keyring.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from appliance.cli.administered import ModelAdministration, add_on, administration
from appliance.cli.transfer import transfer_bar
from appliance.errors import ConfigError
from appliance.remote.answers import Answer

_MIB = 1 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verbs."""
    verbs = parser.add_subparsers(dest="models_verb", required=True, metavar="VERB")
    listing = verbs.add_parser("list", help="show what is installed")
    listing.add_argument("--json", action="store_true", help="print JSON")
    install = verbs.add_parser("install", help="install a bundle, after its signature was verified and it was tried")
    install.add_argument("file", type=Path, metavar="FILE", help="an archive of a bundle, or its folder")
    verbs.add_parser("remove", help="uninstall a model with all its versions").add_argument("model")
    verbs.add_parser("rollback", help="let the version before serve").add_argument("model")
    alias = verbs.add_parser("alias", help="show other names of models, give one, or take one back")
    alias.add_argument("alias", nargs="?")
    alias.add_argument("model", nargs="?", help="the model that it stands for")
    alias.add_argument("--remove", action="store_true", help="take it back")
    trust = verbs.add_parser("trust", help="show whose bundles may run, add a signing key, or take one back")
    trust.add_argument("key", nargs="?", metavar="KEY", help="a public key's file; with --remove its id")
    trust.add_argument("--remove", action="store_true", help="trust it no longer")
    for verb in verbs.choices.values():
        add_on(verb)


def run(args: argparse.Namespace) -> int:
    """Do it.

    Raises:
        LanternError: refused, with the reason.
    """
    asyncio.run(_run(args))
    return 0


async def _run(args: argparse.Namespace) -> None:
    async with administration(args.on) as device:
        match args.models_verb:
            case "list":
                overview = await device.overview()
                if args.json:
                    print(json.dumps(overview, indent=2))
                else:
                    _show(overview)
            case "install":
                await install(device, args.file)
            case "remove":
                await device.remove(args.model)
                print(f"The model {args.model} is removed.")
            case "rollback":
                told = _of(await device.rollback(args.model), args.model)
                print(f"The model {args.model} is back at {told['digest'][:12]}.")
            case "alias":
                await _alias(device, args.alias, args.model, remove=args.remove)
            case _:
                await _trust(device, args.key, remove=args.remove)


async def install(device: ModelAdministration, path: Path) -> None:
    """Install a bundle and say what serves then."""
    with transfer_bar(f"Sending {path.name}") as on_progress:
        answer = await device.install(path, on_progress)
    name = answer.get("installed")
    print(f"The model {name} is installed." if name else "It is installed already, and serves.")
    _show(answer)


async def _alias(device: ModelAdministration, alias: str | None, model: str | None, *, remove: bool) -> None:
    if alias is None:
        for name, stands_for in (await device.aliases()).items():
            print(f"{name} = {stands_for}")
    elif remove:
        await device.remove_alias(alias)
        print(f"The alias {alias} is taken back.")
    elif model is None:
        raise ConfigError("An alias stands for a model; give both: lantern models alias ALIAS MODEL.")
    else:
        await device.set_alias(alias, model)
        print(f"{alias} stands for {model}.")


async def _trust(device: ModelAdministration, key: str | None, *, remove: bool) -> None:
    if key is None:
        for signer in await device.trusted():
            print(signer)
    elif remove:
        await device.distrust(key)
        print(f"Nothing that {key} signed runs any more.")
    else:
        try:
            pem = await asyncio.to_thread(Path(key).read_bytes)
        except OSError as err:
            raise ConfigError(f"{key} cannot be read: {(err.strerror or str(err)).lower()}.") from err
        signer = await device.trust(pem)
        print(f"Models that the key {signer} signed may run from now on. Compare it with what their maker says.")


def _of(overview: Answer, name: str) -> Answer:
    found: Answer = next(m for m in overview["models"] if m["name"] == name)
    return found


def _show(overview: Answer) -> None:
    """A table; every text in it is foreign, so none is read as markup."""
    table = Table("Model", "Kind", "MiB", "Versions", "Signer", "Aliases", "State", box=None, pad_edge=False)
    for model in overview["models"]:
        problem = model.get("problem")
        state = problem or ("loaded" if model["loaded"] else "installed")
        size = f"{model['size_bytes'] / _MIB:.0f}" if "size_bytes" in model else "?"
        cells = [model["name"], model.get("kind", "?"), size, str(len(model["versions"])), model.get("signer", "?")]
        cells += [", ".join(model["aliases"])]
        table.add_row(*map(Text, cells), Text(state, style="red" if problem else ""))
    console = Console()
    console.print(table if overview["models"] else "No model is installed.")
    free = overview["storage"]["free_bytes"]
    if free is not None:
        memory = overview["memory"]["free_bytes"] // _MIB
        console.print(f"{free // _MIB} MiB of storage and {memory} MiB of memory are free.", highlight=False)

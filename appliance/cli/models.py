"""`lantern models`: list, install, load, unload, remove and roll back models, set aliases, and trust signing keys.

Through the server that runs on this machine, else on its files (not load and unload); with `--device DEVICE` on
another machine, whose administration key comes from LANTERN_API_KEY or the platform's keyring.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from appliance.cli.administered import ModelAdministration, administration, running_device
from appliance.cli.selection import add_device
from appliance.cli.transfer import transfer_bar
from appliance.errors import ConfigError, DeviceError

if TYPE_CHECKING:  # it loads onnxruntime
    from appliance.install.overview import ModelInfo, Overview

_MIB = 1 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verbs."""
    verbs = parser.add_subparsers(dest="models_verb", required=True, metavar="VERB")
    listing = verbs.add_parser("list", help="show what is installed")
    listing.add_argument("--json", action="store_true", help="print JSON")
    install = verbs.add_parser("install", help="verify a bundle, try it, and install it")
    install.add_argument("file", type=Path, metavar="FILE", help="an archive of a bundle, or its folder")
    verbs.add_parser("load", help="load a model now").add_argument("model")
    verbs.add_parser("unload", help="free a model's memory until a request needs it").add_argument("model")
    verbs.add_parser("remove", help="uninstall every version of a model").add_argument("model")
    verbs.add_parser("rollback", help="activate the version before the active one").add_argument("model")
    alias = verbs.add_parser("alias", help="show aliases of models, set one, or remove one")
    alias.add_argument("alias", nargs="?")
    alias.add_argument("model", nargs="?", help="the model that the alias stands for")
    alias.add_argument("--remove", action="store_true", help="remove the alias")
    trust = verbs.add_parser("trust", help="show the trusted signing keys, add one, or remove one")
    trust.add_argument("key", nargs="?", metavar="KEY", help="a public key's file; with --remove its id")
    trust.add_argument("--remove", action="store_true", help="trust the key no longer")
    for verb in verbs.choices.values():
        add_device(verb, "this machine")


def run(args: argparse.Namespace) -> int:
    """Administer models.

    Raises:
        LanternError: refused, with the reason.
    """
    asyncio.run(_run(args))
    return 0


async def _run(args: argparse.Namespace) -> None:
    if args.models_verb in {"load", "unload"}:
        await _change_memory(args)
        return
    async with administration(args.device) as device:
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
                print(f"The model {args.model} is back at {(told['digest'] or '?')[:12]}.")
            case "alias":
                await _alias(device, args.alias, args.model, remove=args.remove)
            case _:
                await _trust(device, args.key, remove=args.remove)


async def _change_memory(args: argparse.Namespace) -> None:
    """Load or unload a model of a server that runs."""
    async with running_device(args.device) as device:
        overview = await (device.load if args.models_verb == "load" else device.unload)(args.model)
        _show(overview)


async def install(device: ModelAdministration, path: Path) -> None:
    """Install a bundle, and print the models that are installed then."""
    with transfer_bar(f"Sending {path.name}") as on_progress:
        answer = await device.install(path, on_progress)
    name = answer["installed"]
    print(f"The model {name} is installed." if name else "It is installed already, and serves.")
    _show(answer)


async def _alias(device: ModelAdministration, alias: str | None, model: str | None, *, remove: bool) -> None:
    if alias is None:
        for name, stands_for in (await device.aliases()).items():
            print(f"{name} = {stands_for}")
    elif remove:
        await device.remove_alias(alias)
        print(f"The alias {alias} is removed.")
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


def _of(overview: Overview, name: str) -> ModelInfo:
    found = next((model for model in overview["models"] if model["name"] == name), None)
    if found is None:
        raise DeviceError(f"the answer to the rollback does not tell of {name}; look with: lantern models list")
    return found


def _kl(model: ModelInfo) -> str:
    """Return the divergence by this processor's arithmetic; a text model has none."""
    found = model["quality"].get("kl_here") if "quality" in model else None
    return "" if found is None else f"{found:.4f}"


def _built_for(model: ModelInfo) -> str:
    """Return the target of a bundle, and a remark if this board is another one."""
    remark = "" if model.get("is_built_for_here", True) else " (another board)"
    return f"{model.get('built_for', '')}{remark}"


def _show(overview: Overview) -> None:
    """Print a table; its texts come from the device, so none is parsed as markup."""
    models = overview["models"]
    targets = [_built_for(model) for model in models]
    has_targets = any(target not in {"", "any"} for target in targets)
    table = Table(box=None, pad_edge=False)
    # The id that clients use is whole in a terminal of any width; the rest of a signer is in --json.
    for title in ("Model", "Kind", "MiB", "KL here", *(["Built for"] * has_targets), "Versions"):
        table.add_column(title, no_wrap=True)
    table.add_column("Signer", overflow="ellipsis")
    table.add_column("Aliases", overflow="fold")
    table.add_column("State", overflow="fold", min_width=len("installed"))
    for model, target in zip(models, targets, strict=True):
        problem = model.get("problem")
        state = problem or ("loaded" if model["loaded"] else "installed")
        size = f"{model['size_bytes'] / _MIB:.0f}" if "size_bytes" in model else "?"
        cells = [model["name"], model.get("kind", "?"), size, _kl(model), *([target] * has_targets)]
        cells += [str(len(model["versions"])), model.get("signer", "?"), ", ".join(model["aliases"])]
        table.add_row(*map(Text, cells), Text(state, style="red" if problem else ""))
    console = Console()
    console.print(table if models else "No model is installed.")
    free = overview["storage"]["free_bytes"]
    if free is not None:
        memory = overview["memory"]["free_bytes"] // _MIB
        console.print(f"{free // _MIB} MiB of storage and {memory} MiB of memory are free.", highlight=False)

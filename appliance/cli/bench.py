"""`lantern bench`: how fast this machine is, in process and over HTTP, alone or in turn with another server."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.status import Status

from appliance.bench.plan import ENGINE_GROUPS, GROUPS, SERVER_GROUPS, BenchPlan, Endpoint
from appliance.bench.run import run_bench
from appliance.bench.table import render
from appliance.bundle import BundleStore, TrustedKeys
from appliance.config import load_config
from appliance.errors import ConfigError
from appliance.home import Home, lantern_home
from appliance.models import EngineSettings

_PLAIN_WIDTH = 140  # a pipe or a file has no width of its own


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--only", type=_groups, metavar="GROUP,...", help=f"of: {', '.join(GROUPS)} (default: all)")
    parser.add_argument("--repeat", type=_count, metavar="N", help="runs of which the median is shown (default 5)")
    parser.add_argument("--quick", action="store_true", help="fewer sizes, shorter answers, 2 runs")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parser.add_argument("--model", metavar="ID", help="the chat model (default: the first)")
    parser.add_argument("--embedding-model", metavar="ID", help="the embedding model (default: the first)")
    _add_servers(parser.add_argument_group("servers"))
    _add_engine(parser.add_argument_group("settings of the engine, in process and of the server that is started"))


def _add_servers(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--device", metavar="URL", help="measure this running server instead of starting one; its base URL"
    )
    group.add_argument("--key", default=os.environ.get("LANTERN_API_KEY"), help="its key (default: LANTERN_API_KEY)")
    group.add_argument("--against", metavar="URL", help="run the same load on this OpenAI-compatible server, in turn")
    group.add_argument("--against-model", metavar="ID", help="its model (default: the first that answers)")
    group.add_argument("--against-key", metavar="KEY", help="its key")


def _add_engine(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--config", type=Path, metavar="FILE", help="settings (default: lantern.toml in LANTERN_HOME)")
    group.add_argument("--threads", type=int, help="threads of a model (default: one a core)")
    group.add_argument("--spinning", action=argparse.BooleanOptionalAction, default=None, help="threads stay awake")
    group.add_argument("--slots", type=int, help="requests that run at once (default 4)")
    group.add_argument("--context-length", type=int, help="tokens of one conversation (default 2048)")


def run(args: argparse.Namespace) -> int:
    """Measure and print.

    Raises:
        LanternError: nothing can be measured; the message says why.
    """
    home = lantern_home()
    plan = _plan(args, home)
    store = BundleStore(home.bundles, TrustedKeys.load(home.trusted_keys))
    progress = Console(stderr=True)
    with progress.status("measuring") as status:
        report = run_bench(plan, store, home.prepacked, on_progress=_shown(status))
    if args.json:
        print(json.dumps(report.to_json(), indent=2))
        return 0
    console = Console()
    if not console.is_terminal:
        console = Console(width=_PLAIN_WIDTH)
    console.print(render(report))
    return 0


def _shown(status: Status) -> Callable[[str], None]:
    def show(step: str) -> None:
        status.update(step)

    return show


def _plan(args: argparse.Namespace, home: Home) -> BenchPlan:
    is_own_server_alone = args.device is None and args.against is None
    groups = args.only or (
        GROUPS if is_own_server_alone else tuple(g for g in SERVER_GROUPS if args.device is None or g != "ready")
    )
    misplaced = [
        g for g in groups if (g in ENGINE_GROUPS and not is_own_server_alone) or (g == "ready" and args.device)
    ]
    if misplaced:
        raise ConfigError(
            f"{misplaced[0]} cannot be measured on a server that runs already; leave --device and --against out."
        )
    return BenchPlan(
        groups=groups,
        engine=_engine(args, home),
        repeat=args.repeat or (2 if args.quick else 5),
        is_quick=args.quick,
        chat_model=args.model,
        embedding_model=args.embedding_model,
        endpoint=Endpoint(args.device, args.key, args.model, args.embedding_model) if args.device else None,
        peer=Endpoint(args.against, args.against_key, args.against_model) if args.against else None,
    )


def _engine(args: argparse.Namespace, home: Home) -> EngineSettings:
    """Return the user's settings with the flags above them, as `lantern serve` would take them."""
    asked = {
        "threads": args.threads,
        "spinning": args.spinning,
        "slots": args.slots,
        "context_length": args.context_length,
    }
    flags = {("engine", key): value for key, value in asked.items() if value is not None}
    return EngineSettings.of(load_config(home.settings_file(args.config), flags=flags).engine)


def _groups(text: str) -> tuple[str, ...]:
    asked = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in asked if name not in GROUPS]
    if unknown or not asked:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown) or 'nothing'} is not among {', '.join(GROUPS)}")
    return tuple(asked)


def _count(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 1000:
        raise argparse.ArgumentTypeError(f"{text} is not between 1 and 1000")
    return value

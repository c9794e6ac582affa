"""`lantern serve`: the appliance in the foreground."""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from appliance.config import Config, load_config
from appliance.errors import ConfigError
from appliance.home import Home, lantern_home
from appliance.host.allocator import use_one_heap
from appliance.service.composition import Mode, Parts, compose
from appliance.service.debug_hang import hang_on_signal
from appliance.service.last_good import LastGood
from appliance.service.logs import configure_logging
from appliance.service.safe_mode import SafeMode
from appliance.service.service import Service

_LOGGER = logging.getLogger(__name__)

_RESTART_STATUS = 75  # RestartForceExitStatus in lantern.service


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags; each overrides its setting."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings (default: lantern.toml in LANTERN_HOME)")
    parser.add_argument("--host", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port to listen on (default 8080, 0: any free one)")
    parser.add_argument("--announce", action="store_true", default=None, help="announce this server by DNS-SD")
    parser.add_argument("--name", help="the name to announce (default: lantern-ID)")
    parser.add_argument("--no-auth", action="store_true", default=None, help="allow a network address without a key")
    parser.add_argument(
        "--claimable", action="store_true", default=None, help="while there is no key, wait for `lantern claim`"
    )
    parser.add_argument("--reopen-claim", action="store_true", help="let this device be claimed once more")
    parser.add_argument("--slots", type=int, help="requests that run at once (default 4)")
    parser.add_argument("--context-length", type=int, help="tokens of one conversation (default 2048)")
    parser.add_argument("--threads", type=int, help="threads of a model (default: as proved fastest here)")
    parser.add_argument(
        "--preload", action="append", metavar="NAME", help="load only these models at start, others when asked for"
    )
    parser.add_argument("--last-good", action="store_true", help="use the last good settings where these are not valid")
    parser.add_argument("--safe", action="store_true", help="load no model; answer /health and administration")
    parser.add_argument(
        "--spinning",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="keep threads awake between operators: faster on idle cores, slow beside other work",
    )


def run(args: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM.

    Raises:
        ConfigError: settings that are not valid or cannot be used, and no last good ones were asked for, or there are.
    """
    home = lantern_home()
    path, flags = home.settings_file(args.config), _flags(args)
    last_good = LastGood(home.root) if args.last_good else None
    # What is imported stays. The collector waits with a full round until there is a quarter more than survived the last
    # one, and with ninety thousand imported objects closed connections, which are cycles, would pile up by the hundred.
    gc.freeze()
    use_one_heap()
    faulthandler.enable()  # a watchdog's SIGABRT leaves in the log where every thread stood
    try:
        keep = partial(last_good.keep, path) if last_good is not None else lambda: None
        is_restart = _run(load_config(path, flags=flags), home, args, keep=keep)
    except ConfigError as err:
        if last_good is None or last_good.path is None:
            raise
        config = load_config(last_good.path, flags=flags)
        configure_logging(config.log.level, style=config.log.style)
        _LOGGER.error("the last good settings are used, since: %s", err.message)
        is_restart = _run(config, home, args, faults=(f"settings: {err.message}",))
    return _start_again() if is_restart else 0


def _run(
    config: Config,
    home: Home,
    args: argparse.Namespace,
    *,
    keep: Callable[[], object] = lambda: None,
    faults: tuple[str, ...] = (),
) -> bool:
    """Serve, and return True if the process is to start again."""
    configure_logging(config.log.level, style=config.log.style)
    mode = Mode.SAFE if args.safe else Mode.FULL
    parts = compose(config, home, mode, config_path=args.config, faults=faults, reopen_claim=args.reopen_claim)
    asyncio.run(_serve_safely(parts) if args.safe else _serve(parts, keep))
    return parts.stopping.is_restart


def _start_again() -> int:
    """Let the service manager start the appliance again, since it holds the sockets; without one, start it here."""
    if "NOTIFY_SOCKET" not in os.environ:
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - the command that we are
    return _RESTART_STATUS


async def _serve(parts: Parts, keep: Callable[[], object]) -> None:
    loop = asyncio.get_running_loop()

    def on_ready(service: Service) -> None:
        loop.run_in_executor(None, keep)
        if hang := os.environ.get("LANTERN_DEBUG_HANG"):
            hang_on_signal(hang, service.pool)
        if "NOTIFY_SOCKET" not in os.environ:
            _print_ready(service)

    service = Service(parts, on_ready=on_ready)
    _on_stop_signals(service.stop)
    await service.run()


async def _serve_safely(parts: Parts) -> None:
    def on_ready(serving: SafeMode) -> None:
        print(f"Safe mode: only /health and administration, on port {serving.port}.", flush=True)

    serving = SafeMode(parts, on_ready=on_ready)
    _on_stop_signals(serving.stop)
    await serving.run()


def _on_stop_signals(stop: Callable[[], None]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop)


def _flags(args: argparse.Namespace) -> dict[tuple[str, str], Any]:
    flags = {
        ("server", "host"): args.host,
        ("server", "port"): args.port,
        ("server", "allow_open"): args.no_auth,
        ("server", "claimable"): args.claimable,
        ("discovery", "announce"): args.announce,
        ("discovery", "name"): args.name,
        ("engine", "slots"): args.slots,
        ("engine", "context_length"): args.context_length,
        ("engine", "threads"): args.threads,
        ("engine", "spinning"): args.spinning,
        ("models", "preload"): args.preload,
    }
    return {key: value for key, value in flags.items() if value is not None}


def _print_ready(service: Service) -> None:
    kinds = {m.id: m.bundle.manifest.model.kind for m in service.pool.installed()}
    chats = [name for name, kind in kinds.items() if kind == "decoder"]
    encoders = [name for name, kind in kinds.items() if kind == "encoder"]
    key = '"YOUR_KEY"' if os.environ.get("LANTERN_API_KEY") else '"any"'
    print(f"\nLantern is ready. In a browser: {service.page_url(with_key=sys.stdout.isatty())}")
    print(f"Base URL: {service.base_url}")
    print(f"Models: {', '.join(m.id for m in service.pool.listed())}\n")
    print("from openai import OpenAI\n")
    print(f'client = OpenAI(base_url="{service.base_url}", api_key={key})')
    if chats:
        print(
            f'answer = client.chat.completions.create(model="{chats[0]}",\n'
            '    messages=[{"role": "user", "content": "Name the capital city of France."}])\n'
            "print(answer.choices[0].message.content)"
        )
    if encoders:
        print(f'vector = client.embeddings.create(model="{encoders[0]}", input="light").data[0].embedding')
        print("print(len(vector))")
    print("\nStop with Ctrl-C.", flush=True)

"""`lantern serve`: the appliance in the foreground."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

from appliance.config import load_config
from appliance.home import lantern_home
from appliance.models import ChatModel, EmbeddingModel
from appliance.service import Service


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags; each overrides its setting."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings (default: lantern.toml in LANTERN_HOME)")
    parser.add_argument("--host", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port to listen on (default 8080, 0: any free one)")
    parser.add_argument("--announce", action="store_true", default=None, help="announce this server by DNS-SD")
    parser.add_argument("--name", help="the name to announce (default: lantern-ID)")
    parser.add_argument("--no-auth", action="store_true", default=None, help="allow a network address without a key")
    parser.add_argument("--slots", type=int, help="requests that run at once (default 4)")
    parser.add_argument("--context-length", type=int, help="tokens of one conversation (default 2048)")
    parser.add_argument("--threads", type=int, help="threads of a model (default: one a core)")
    parser.add_argument(
        "--spinning",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="keep threads awake between operators: faster on idle cores, slow beside other work",
    )


def run(args: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM."""
    home = lantern_home()
    config = load_config(_config_path(args, home.root), flags=_flags(args))
    logging.basicConfig(
        level=config.log.level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    asyncio.run(_serve(Service(config, home, on_ready=_print_ready)))
    return 0


async def _serve(service: Service) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, service.stop)
    await service.run()


def _config_path(args: argparse.Namespace, root: Path) -> Path | None:
    if args.config is not None:
        chosen: Path = args.config
        return chosen
    default = root / "lantern.toml"
    return default if default.exists() else None


def _flags(args: argparse.Namespace) -> dict[tuple[str, str], Any]:
    flags = {
        ("server", "host"): args.host,
        ("server", "port"): args.port,
        ("server", "allow_open"): args.no_auth,
        ("discovery", "announce"): args.announce,
        ("discovery", "name"): args.name,
        ("engine", "slots"): args.slots,
        ("engine", "context_length"): args.context_length,
        ("engine", "threads"): args.threads,
        ("engine", "spinning"): args.spinning,
    }
    return {key: value for key, value in flags.items() if value is not None}


def _print_ready(service: Service) -> None:
    models = service.pool.loaded()
    chats = [m.bundle.name for m in models if isinstance(m, ChatModel)]
    encoders = [m.bundle.name for m in models if isinstance(m, EmbeddingModel)]
    key = '"YOUR_KEY"' if os.environ.get("LANTERN_API_KEY") else '"any"'
    print(f"\nLantern is ready.  Base URL: {service.base_url}")
    print(f"Models: {', '.join(m.id for m in service.pool.listed())}\n")
    print("from openai import OpenAI\n")
    print(f'client = OpenAI(base_url="{service.base_url}", api_key={key})')
    if chats:
        print(
            f'answer = client.chat.completions.create(model="{chats[0]}",\n'
            '    messages=[{"role": "user", "content": "What is the capital of France?"}])\n'
            "print(answer.choices[0].message.content)"
        )
    if encoders:
        print(f'vector = client.embeddings.create(model="{encoders[0]}", input="light").data[0].embedding')
        print("print(len(vector))")
    print("\nStop with Ctrl-C.", flush=True)

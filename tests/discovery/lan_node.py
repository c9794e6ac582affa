"""One machine of a test network: a script that runs inside a network namespace and tells what it sees, one JSON a line.

`announce` announces, and takes `state S` and `stop` on standard input; `watch` prints every list of devices; `find`
prints how long the first one took; `get` fetches a URL; `rogue` sends records that nobody should send.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import time

from blockbuster import blockbuster_ctx

from appliance.discovery import Announcer, Browser, ServiceRecord, State, find
from tests.discovery import lan_strangers as strangers
from tests.discovery.lan_listeners import say


async def announce(args: argparse.Namespace) -> None:
    record = ServiceRecord(device_id=args.id, version="1.2.3", apis=("chat", "emb"), num_models=2)
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    hosts = args.hosts.split(",")
    announcer = Announcer(
        record,
        name=args.name,
        port=8080,
        hosts=hosts,
        openai_alias=args.alias,
        short_name=args.short,
        on_short_name=lambda name: say(event="short", name=name),
        ttl_s=args.ttl,
    )
    async with announcer:
        say(event="started")
        await announcer.announced()
        say(event="announced", name=announcer.name, addresses=announcer.addresses)
        while (line := (await commands.readline()).decode().split()) and line[0] != "stop":
            announcer.update(state=State(line[1]))
    say(event="stopped")


async def watch(_args: argparse.Namespace) -> None:
    async with Browser(expiry_interval_s=0.5) as browser:
        say(event="watching", devices=[])
        while True:
            await browser.changed(None)
            say(event="changed", devices=[device.to_json() for device in browser.devices()])


async def find_first(_args: argparse.Namespace) -> None:
    start_s = time.monotonic()
    async with contextlib.aclosing(find(timeout_s=5.0)) as found:
        async for device in found:
            say(event="found", took_s=time.monotonic() - start_s, device=device.to_json())
            return


async def serve(_args: argparse.Namespace) -> None:
    from aiohttp import web  # late, as below: most nodes do without, and start in half the time

    async def models(_request: web.Request) -> web.Response:
        return web.json_response({"data": []})

    app = web.Application()
    app.router.add_get("/v1/models", models)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, None, 8080).start()
    say(event="serving")
    await asyncio.Event().wait()


async def get(args: argparse.Namespace) -> None:
    import aiohttp

    async with aiohttp.ClientSession() as session, session.get(args.url) as response:
        say(event="got", status=response.status)


def main() -> None:
    parser = argparse.ArgumentParser()
    verbs = parser.add_subparsers(required=True)
    for verb in (announce, watch, find_first, serve, get, *strangers.VERBS):
        sub = verbs.add_parser(verb.__name__)
        sub.set_defaults(run=verb)
        sub.add_argument("--name", default="Küche")
        sub.add_argument("--id", default="00112233aabbccdd")
        sub.add_argument("--hosts", default="0.0.0.0,::")
        sub.add_argument("--host", default="aaa")
        sub.add_argument("--addresses", default="127.0.0.1,0.0.0.0,224.0.0.1")
        sub.add_argument("--alias", action="store_true")
        sub.add_argument("--short", default="")
        sub.add_argument("--url")
        sub.add_argument("--ttl", type=int, default=120)
        sub.add_argument("--seconds", type=float)
        sub.add_argument("--types")
    args = parser.parse_args()
    with blockbuster_ctx(scanned_modules=["appliance"]):
        asyncio.run(args.run(args))


if __name__ == "__main__":
    main()

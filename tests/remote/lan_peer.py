"""One machine of a test network with TLS: `device` announces a server and tells all that it is sent, `client` uses it.

A script, as `tests/discovery/lan_node.py`: one JSON object a line.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import sys
from pathlib import Path

from blockbuster import blockbuster_ctx

from appliance.client import async_openai_client, openai_client
from appliance.discovery import Announcer, Auth, ServiceRecord
from appliance.errors import LanternError
from appliance.identity.certificate import device_certificate, pin_of, server_context

_BODY = b'{"object": "list", "data": [{"id": "chatty", "object": "model", "created": 0, "owned_by": "x"}]}'
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"


def say(**facts: object) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


async def device(args: argparse.Namespace) -> None:
    """Serve and announce; what clients wrote is told, decrypted, when they leave."""
    certificate = await asyncio.to_thread(device_certificate, Path(args.certificate), host_name="lantern.local")
    pin = await asyncio.to_thread(pin_of, certificate)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        said = b""
        while b"\r\n\r\n" not in said and (more := await reader.read(65536)):
            said += more
        if said:
            writer.write(_HEAD % len(_BODY) + _BODY)
        writer.close()
        say(event="heard", said=said.decode())

    tls = None if args.plain else await asyncio.to_thread(server_context, certificate, certificate)
    record = ServiceRecord(args.id, auth=Auth(args.auth), apis=("chat",), num_models=1)
    if not args.plain:
        record = dataclasses.replace(record, proto="https", fingerprint=pin)
    if args.beside:  # as a device with plain HTTP and HTTPS announces itself
        record = dataclasses.replace(record, proto="http", tls_port=8443)
    server = await asyncio.start_server(serve, None, 8443, ssl=tls)
    async with server, Announcer(record, name=args.name, port=8080 if args.beside else 8443) as announcer:
        await announcer.announced()
        say(event="announced", name=announcer.name, pin=pin)
        await asyncio.Event().wait()


def client(args: argparse.Namespace) -> None:
    """Use the SDK as a program does, for each of the names that are wanted."""
    for wanted in args.wanted or [None]:
        try:
            search = {"name": wanted or None, "model": args.model, "timeout_s": args.timeout_s}
            with openai_client(**search, max_retries=0) as found:
                say(event="answered", url=str(found.base_url), models=[model.id for model in found.models.list()])
        except LanternError as err:
            say(event="refused", error=type(err).__name__, message=err.message)


async def async_client(_args: argparse.Namespace) -> None:
    """The same, from within an event loop, where the client without `async` works too."""
    with blockbuster_ctx(scanned_modules=["appliance"]):
        async with await async_openai_client(max_retries=0) as found:
            say(event="answered", url=str(found.base_url), models=[model.id async for model in found.models.list()])
    with openai_client(max_retries=0) as same:
        say(event="answered", url=str(same.base_url), models=[model.id for model in same.models.list()])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("verb", choices=["device", "client", "async_client"])
    parser.add_argument("--name", default="kitchen")
    parser.add_argument("--id", default="00112233aabbccdd")
    parser.add_argument("--certificate")
    parser.add_argument("--auth", default="bearer")
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--beside", action="store_true")
    parser.add_argument("--wanted", action="append")
    parser.add_argument("--model")
    parser.add_argument("--timeout-s", type=float, default=3.0)
    args = parser.parse_args()
    if args.verb == "client":
        client(args)
    else:
        asyncio.run({"device": device, "async_client": async_client}[args.verb](args))


if __name__ == "__main__":
    main()

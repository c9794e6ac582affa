"""The door to one device: who gets the key, and who answers when the device does not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import aiohttp
import pytest

from appliance.remote.gateway.relay import Relay
from appliance.remote.target import Target
from tests.remote.conftest import KEY, Recorder, StartRecorder

_OTHER_KEY = "sk-of-the-other"
_TOKEN = "of-the-relay"


def target(server: Recorder, *, pin: str | None = None, key: str = KEY) -> Target:
    return Target("kitchen", "a" * 16, server.url, pin or server.pin, key, "it is the test's")


async def ask(relay: Relay, *, host: str | None = None, token: str = _TOKEN) -> tuple[int, bytes]:
    headers = {"Authorization": f"Bearer {token}"} | ({"Host": host} if host else {})
    body = {"model": "chatty", "messages": []}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{relay.base_url}/chat/completions", json=body, headers=headers) as response,
    ):
        return response.status, await response.read()


def test_a_request_goes_on_with_the_key_and_to_the_right_certificate_only(start_recorder: StartRecorder) -> None:
    ours, rogue = start_recorder("ours"), start_recorder("rogue")

    async def both() -> tuple[int, int]:
        async with Relay(target(ours), token=_TOKEN) as good, Relay(target(rogue, pin=ours.pin), token=_TOKEN) as bad:
            return (await ask(good))[0], (await ask(bad))[0]

    assert asyncio.run(both()) == (200, 503)
    assert f"Authorization: Bearer {KEY}".encode() in ours.said
    assert b"POST /v1/chat/completions " in ours.said
    assert rogue.said == b""


def test_a_program_without_the_token_gets_nothing_by_our_key(start_recorder: StartRecorder) -> None:
    server = start_recorder("ours")

    async def run() -> list[int]:
        async with Relay(target(server), token=_TOKEN) as relay:
            return [(await ask(relay, token=token))[0] for token in ("", "mine", KEY)]

    assert asyncio.run(run()) == [401, 401, 401]
    assert server.said == b""


def test_the_token_goes_no_further(start_recorder: StartRecorder) -> None:
    server = start_recorder("ours")

    async def run() -> int:
        async with Relay(target(server), token=_TOKEN) as relay:
            return (await ask(relay))[0]

    assert asyncio.run(run()) == 200
    assert _TOKEN.encode() not in server.said


def leave_shut(relay: Relay) -> None:
    relay.shut(abort=True)


def leave_open(_relay: Relay) -> None:
    """The device is gone, and nobody has noticed yet."""


@pytest.mark.parametrize("leave", [leave_shut, leave_open])
def test_a_neighbour_answers_with_its_own_key_for_a_device_that_is_gone(
    start_recorder: StartRecorder, leave: Callable[[Relay], None]
) -> None:
    server = start_recorder("ours")
    gone = Recorder(1, server.pin)
    asked: list[str] = []

    async def run() -> tuple[int, bytes]:
        async with Relay(target(server, key=_OTHER_KEY), token=_TOKEN) as neighbour:

            def neighbours(model: str) -> list[Relay]:
                asked.append(model)
                return [neighbour]

            async with Relay(target(gone), token=_TOKEN, neighbours=neighbours) as relay:
                leave(relay)
                return await ask(relay)

    status, body = asyncio.run(run())
    assert (status, json.loads(body)["data"][0]["id"]) == (200, "chatty")
    assert asked == ["chatty"]
    assert _OTHER_KEY.encode() in server.said
    assert KEY.encode() not in server.said


class Dying:
    """A device that says so much of a streamed answer, and loses its power when it is told."""

    def __init__(self, said: bytes) -> None:
        self._said = said
        self._has_said = asyncio.Event()
        self._writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(head.lower().partition(b"content-length:")[2].split()[0]))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        writer.write(b"%x\r\n%b\r\n" % (len(self._said), self._said))
        await writer.drain()
        self._writers.append(writer)
        self._has_said.set()

    async def die(self) -> None:
        await self._has_said.wait()
        for writer in self._writers:
            writer.close()


@pytest.mark.parametrize(
    ("said", "status"), [(b": ping\n\n", 200), (b": ping\n\n: ping\n\n", 200), (b'data: {"choices": []}\n\n', None)]
)
def test_a_neighbour_answers_for_a_stream_that_has_said_nothing_yet(
    start_recorder: StartRecorder, said: bytes, status: int | None
) -> None:
    """Text that was sent cannot be taken back: such a stream ends in its midst, an error that clients notice."""
    neighbour_device = start_recorder("ours")

    async def run() -> int | None:
        dying = Dying(said)
        server = await asyncio.start_server(dying.serve, "127.0.0.1", 0)
        gone = Target("bath", "b" * 16, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", None, KEY, "")
        async with (
            server,
            Relay(target(neighbour_device), token=_TOKEN) as neighbour,
            Relay(gone, token=_TOKEN, neighbours=lambda _model: [neighbour]) as relay,
        ):
            asking = asyncio.create_task(ask(relay))
            await dying.die()
            try:
                return (await asking)[0]
            except aiohttp.ClientPayloadError:
                return None

    assert asyncio.run(run()) == status


def test_nobody_left_is_an_error_that_says_when_to_come_back(start_recorder: StartRecorder) -> None:
    server = start_recorder("ours")

    async def run() -> tuple[int, bytes]:
        async with Relay(target(server), token=_TOKEN) as relay:
            relay.shut(abort=False)
            return await ask(relay)

    status, body = asyncio.run(run())
    assert (status, json.loads(body)["error"]["code"]) == (503, "service_unavailable")
    assert server.said == b""


def test_a_page_that_rebinds_a_name_to_loopback_is_refused(start_recorder: StartRecorder) -> None:
    server = start_recorder("ours")

    async def run(asking: Callable[[Relay], Awaitable[tuple[int, bytes]]]) -> int:
        async with Relay(target(server), token=_TOKEN) as relay:
            return (await asking(relay))[0]

    assert asyncio.run(run(lambda relay: ask(relay, host="evil.example"))) == 421
    assert server.said == b""

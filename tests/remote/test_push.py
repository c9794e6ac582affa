"""A push arrives whole over connections that break, and over a device that is restarted in the middle."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import aiohttp
import pytest

from appliance.errors import BundleError, DeviceError
from appliance.home import Home
from appliance.remote.answers import INSTALLATION
from appliance.remote.bundle_reader import BundleReader
from appliance.remote.push import push
from tests.bundle.workshop import snapshot
from tests.conftest import a_config, serving
from tests.install.tiny_bundles import TinyDevice
from tests.remote.broken_wire import BrokenWire, nothing, session_over

KEY = "sk-the-administrator"
PADDING = bytes(range(256)) * 8192  # 2 MiB
CONFIG = a_config(server={"keys": [KEY]})


@pytest.fixture
def device(tmp_path: Path) -> TinyDevice:
    return TinyDevice(tmp_path)


@contextlib.asynccontextmanager
async def session(url: str) -> AsyncIterator[aiohttp.ClientSession]:
    headers = {"Authorization": f"Bearer {KEY}"}
    async with aiohttp.ClientSession(url, headers=headers) as opened:
        yield opened


async def pushed_over(wire: BrokenWire, made: Path, seen: list[tuple[int, int]]) -> Mapping[str, object]:
    async with session_over(wire, KEY) as opened:
        return await push(
            opened,
            await asyncio.to_thread(BundleReader, made),
            INSTALLATION,
            on_progress=lambda done, total: seen.append((done, total)),
            piece_bytes=200_000,
            num_tries=30,
            pause_s=0.001,
        )


def test_a_push_arrives_over_a_wire_that_breaks_again_and_again(device: TinyDevice) -> None:
    made, seen = device.make(4, padding=PADDING), list[tuple[int, int]]()
    with serving(CONFIG, Home(device.root / "home")) as server:
        wire = BrokenWire(lambda: server.service.port, bytes_each=450_000, before_break=nothing)
        answer = asyncio.run(pushed_over(wire, made, seen))
    assert answer["installed"] == "tiny"
    assert wire.num_breaks >= 4
    assert wire.num_bytes < 2 * len(PADDING)  # what had arrived was not sent again
    assert snapshot(device.store.root / "tiny" / device.store.versions("tiny")[0]) == snapshot(made)
    assert seen[-1] == (sum(p.stat().st_size for p in made.iterdir() if not p.name.startswith("manifest.")),) * 2
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_a_push_goes_on_when_the_device_was_restarted(device: TinyDevice) -> None:
    made, ports = device.make(4, padding=PADDING), list[int]()
    with contextlib.ExitStack() as first:
        ports.append(first.enter_context(serving(CONFIG, Home(device.root / "home"))).service.port)

        async def restart(num_breaks: int) -> None:
            if num_breaks == 1:
                await asyncio.to_thread(first.close)
                ports.append(
                    (
                        await asyncio.to_thread(second.enter_context, serving(CONFIG, Home(device.root / "home")))
                    ).service.port
                )

        with contextlib.ExitStack() as second:
            wire = BrokenWire(lambda: ports[-1], bytes_each=700_000, before_break=restart)
            answer = asyncio.run(pushed_over(wire, made, []))
    assert answer["installed"] == "tiny"
    assert len(ports) == 2
    assert wire.num_bytes < 2 * len(PADDING)


def test_what_the_device_refuses_is_not_tried_again(device: TinyDevice) -> None:
    async def run(url: str, made: Path) -> None:
        async with session(url) as opened:
            await push(opened, await asyncio.to_thread(BundleReader, made), INSTALLATION, pause_s=3600.0)

    with serving(CONFIG, Home(device.root / "home")) as server:
        with pytest.raises(DeviceError, match="not trusted"):
            asyncio.run(run(server.root_url, device.make(key=device.stranger())))
        short = device.make(padding=b"12345")
        (short / "padding.bin").write_bytes(b"123")
        with pytest.raises(BundleError, match="shorter than"):
            asyncio.run(run(server.root_url, short))
        with pytest.raises(BundleError):
            asyncio.run(run(server.root_url, device.root / "nowhere"))


def test_a_device_that_is_gone_is_given_up_after_some_tries(device: TinyDevice) -> None:
    made = device.make()

    async def run() -> None:
        async with session("http://127.0.0.1:9") as opened:
            await push(opened, await asyncio.to_thread(BundleReader, made), INSTALLATION, num_tries=3, pause_s=0.001)

    with pytest.raises(DeviceError, match="did not answer"):
        asyncio.run(run())

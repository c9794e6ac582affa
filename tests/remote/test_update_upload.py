"""An update arrives over connections that break, and between this version and 0.1.0 in both directions."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from appliance.errors import ConfigError, DeviceError
from appliance.remote.request import request_json
from appliance.remote.update_upload import UpdateFile, push_update
from appliance.server.admin.update import UpdateState
from tests.remote.broken_wire import BrokenWire, nothing, session_over
from tests.remote.updatable import KEY, incoming_update, updatable

DATA = bytes(range(256)) * 8192  # 2 MiB
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine that was started from an image, and the file of an update on another one."""
    (tmp_path / "version").write_text("0.1.0\n")
    (tmp_path / "update.raucb").write_bytes(DATA)
    return tmp_path


async def pushed(session: aiohttp.ClientSession, path: Path, seen: list[tuple[int, int]] | None = None) -> UpdateState:
    with closing(await asyncio.to_thread(UpdateFile, path)) as update:
        return await push_update(
            session,
            update,
            on_progress=lambda done, total: seen.append((done, total)) if seen is not None else None,
            piece_bytes=200_000,
            num_tries=30,
            pause_s=0.001,
        )


@asynccontextmanager
async def session_to(url: str) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(url, headers={"Authorization": f"Bearer {KEY}"}) as session:
        yield session


def test_an_update_arrives_over_a_wire_that_breaks_again_and_again(root: Path) -> None:
    seen: list[tuple[int, int]] = []

    async def main() -> tuple[UpdateState, BrokenWire]:
        async with updatable(root) as device:
            wire = BrokenWire(lambda: device.port, bytes_each=450_000, before_break=nothing)
            async with session_over(wire, KEY) as session:
                return await pushed(session, root / "update.raucb", seen), wire

    answer, wire = asyncio.run(main())
    assert (answer["step"], answer["running"]) == ("waiting", "0.1.0")
    assert incoming_update(root).ready.read_bytes() == DATA
    assert wire.num_breaks >= 4
    assert wire.num_bytes < 1.5 * len(DATA)  # bytes that had arrived were not sent again
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_an_update_that_was_cut_goes_on_when_the_device_was_restarted(root: Path) -> None:
    class CutError(Exception):
        """The client is ended in the middle."""

    def cut(done: int, _total: int) -> None:
        if done >= 600_000:
            raise CutError

    async def cut_short() -> None:
        async with updatable(root) as device, session_to(device.url) as session:
            with closing(await asyncio.to_thread(UpdateFile, root / "update.raucb")) as update, pytest.raises(CutError):
                await push_update(session, update, on_progress=cut, piece_bytes=200_000)

    async def again() -> list[tuple[int, int]]:
        seen: list[tuple[int, int]] = []
        async with updatable(root) as device, session_to(device.url) as session:
            await pushed(session, root / "update.raucb", seen)
        return seen

    asyncio.run(cut_short())
    seen = asyncio.run(again())
    assert seen[0] == (600_000, len(DATA))
    assert incoming_update(root).ready.read_bytes() == DATA


def test_another_update_begins_at_its_first_byte(root: Path) -> None:
    (root / "other.raucb").write_bytes(b"o" * 500_000)

    async def main() -> list[tuple[int, int]]:
        seen: list[tuple[int, int]] = []
        async with updatable(root) as device, session_to(device.url) as session:
            begun = await request_json(session, "POST", UpdateFile.path, {"size_bytes": len(DATA), "sha256": SHA256})
            path = f"{UpdateFile.path}/{begun['id']}/files/{begun['files'][0]['name']}"
            async with session.put(path, data=DATA[:1000], headers=piece(0, 1000)) as answer:
                assert (await answer.json())["received"] == 1000
            await pushed(session, root / "other.raucb", seen)
        return seen

    assert asyncio.run(main())[0] == (0, 500_000)
    assert incoming_update(root).ready.read_bytes() == b"o" * 500_000


def test_wrong_bytes_are_found_out_and_the_upload_begins_anew(root: Path) -> None:
    async def main() -> None:
        async with updatable(root) as device, session_to(device.url) as session:
            begun = await request_json(session, "POST", UpdateFile.path, {"size_bytes": len(DATA), "sha256": SHA256})
            path = f"{UpdateFile.path}/{begun['id']}/files/{begun['files'][0]['name']}"
            async with session.put(path, data=b"w" * 1000, headers=piece(0, 1000)) as answer:
                assert answer.status == 200
            with pytest.raises(DeviceError, match="send it again"):
                await pushed(session, root / "update.raucb")
            assert not await asyncio.to_thread(device.incoming.ready.exists)
            await pushed(session, root / "update.raucb")

    asyncio.run(main())
    assert incoming_update(root).ready.read_bytes() == DATA


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "", 400),
        ("GET", f"/{'0' * 64}", 404),
        ("DELETE", f"/{'0' * 64}", 404),
        ("POST", f"/{'0' * 64}/install", 404),
        ("POST", f"/{SHA256}/install", 409),
        ("GET", "/..%2f..", 404),
    ],
)
def test_odd_requests_are_refused_and_keep_what_came(root: Path, method: str, path: str, status: int) -> None:
    async def main() -> None:
        async with updatable(root) as device, session_to(device.url) as session:
            await request_json(session, "POST", UpdateFile.path, {"size_bytes": len(DATA), "sha256": SHA256})
            put = f"{UpdateFile.path}/{SHA256}/files"
            async with session.put(f"{put}/update.raucb", data=DATA[:1000], headers=piece(0, 1000)) as answer:
                assert answer.status == 200
            async with session.put(f"{put}/update.raucb", data=b"x", headers=piece(5, 1)) as answer:
                assert (answer.status, (await answer.json())["error"]["code"]) == (409, "offset_mismatch")
            async with session.put(f"{put}/other", data=b"x", headers=piece(0, 1)) as answer:
                assert answer.status == 404
            body: dict[str, object] | None = {} if method == "POST" and not path else None
            async with session.request(method, UpdateFile.path + path, json=body) as answer:
                assert answer.status == status, await answer.text()
            [upload] = (await request_json(session, "GET", UpdateFile.path))["uploads"]
            assert upload["files"] == [{"name": "update.raucb", "size_bytes": len(DATA), "received": 1000}]
            assert await request_json(session, "GET", f"{UpdateFile.path}/{SHA256}") == upload
            assert await request_json(session, "DELETE", f"{UpdateFile.path}/{SHA256}") == {"removed": SHA256}

    asyncio.run(main())


def test_a_client_of_0_1_0_updates_this_device(root: Path) -> None:
    async def main() -> None:
        async with updatable(root) as device, session_to(device.url) as session:
            begun = await request_json(session, "POST", "/admin/update", {"size_bytes": len(DATA)})
            assert begun == {**begun, "object": "update", "running": "0.1.0", "received": 0}
            for offset in range(0, len(DATA), 1 << 20):
                data = DATA[offset : offset + (1 << 20)]
                async with session.put("/admin/update", data=data, headers=piece(offset, len(data))) as answer:
                    assert await answer.json() == {"object": "update", "received": offset + len(data)}
            async with session.put("/admin/update", data=b"x", headers=piece(7, 1)) as answer:
                assert answer.status == 409
            async with session.patch("/admin/update", json={"sha256": SHA256}) as answer:
                assert (answer.status, (await answer.json())["step"]) == (202, "waiting")
            assert (await request_json(session, "GET", "/admin/update"))["step"] == "waiting"

    asyncio.run(main())
    assert incoming_update(root).ready.read_bytes() == DATA


def test_this_client_updates_a_device_that_runs_0_1_0(root: Path) -> None:
    async def main() -> tuple[bytes, UpdateState, list[tuple[int, int]]]:
        seen: list[tuple[int, int]] = []
        device = DeviceOf010()
        app = web.Application(client_max_size=len(DATA), middlewares=[unknown_is_404])
        app.add_routes(
            [
                web.post("/admin/update", device.begin),
                web.put("/admin/update", device.append),
                web.patch("/admin/update", device.finish),
            ]
        )
        async with TestServer(app) as server, session_to(str(server.make_url(""))) as session:
            answer = await pushed(session, root / "update.raucb", seen)
        return bytes(device.received), answer, seen

    received, answer, seen = asyncio.run(main())
    assert (received, answer["step"]) == (DATA, "waiting")
    assert (seen[0], seen[-1]) == ((0, len(DATA)), (len(DATA), len(DATA)))


def test_a_machine_without_an_image_refuses_at_once(root: Path) -> None:
    (root / "version").unlink()

    async def main() -> None:
        async with updatable(root) as device, session_to(device.url) as session:
            await pushed(session, root / "update.raucb")

    with pytest.raises(DeviceError, match="not started from an image"):
        asyncio.run(main())


def test_a_file_that_became_shorter_is_named(root: Path) -> None:
    path = root / "update.raucb"
    with closing(UpdateFile(path)) as update:
        path.write_bytes(DATA[:1000])
        with pytest.raises(ConfigError, match=r"update\.raucb changed"):
            update.piece("update.raucb", 0, 2000)


def piece(offset: int, num_bytes: int) -> dict[str, str]:
    """Return the headers of one piece."""
    content_range = f"bytes {offset}-{offset + num_bytes - 1}/{len(DATA)}"
    return {"Content-Type": "application/octet-stream", "Content-Range": content_range}


class DeviceOf010:
    """The routes of 0.1.0, which knows no others below /admin/update."""

    def __init__(self) -> None:
        self.received = bytearray()

    async def begin(self, request: web.Request) -> web.Response:
        assert await request.json() == {"size_bytes": len(DATA)}
        return web.json_response({"object": "update", "received": 0}, status=201)

    async def append(self, request: web.Request) -> web.Response:
        data = await request.read()
        assert request.headers["Content-Range"] == piece(len(self.received), len(data))["Content-Range"]
        self.received += data
        return web.json_response({"object": "update", "received": len(self.received)})

    async def finish(self, request: web.Request) -> web.Response:
        assert await request.json() == {"sha256": SHA256}
        told = {"running": "0.1.0", "step": "waiting", "version": "", "detail": "", "failed": ""}
        return web.json_response({"object": "update", **told, "received": len(DATA)}, status=202)


@web.middleware
async def unknown_is_404(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Answer as 0.1.0 answers a path that it does not know."""
    try:
        return await handler(request)
    except web.HTTPNotFound:
        error = {"message": "Unknown request URL.", "type": "invalid_request_error", "param": None, "code": "not_found"}
        return web.Response(text=json.dumps({"error": error}), status=404, content_type="application/json")

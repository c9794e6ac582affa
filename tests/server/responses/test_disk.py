"""The stored responses on disk: whole after a cut, bounded, erased when deleted, honest when the disk is full."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx2
import pytest

from appliance.home import Home
from appliance.server.state.background import Background
from appliance.server.state.journal import DiskJournal
from appliance.server.state.lifetime import kept_responses
from appliance.server.state.responses import ResponseStore, StoredResponse
from appliance.server.v1.responses.background import interrupted
from appliance.server.v1.responses.kept import appended, new_conversation, without_items
from tests.conftest import a_config, serving
from tests.server.responses.asking import MODEL, create
from tests.server.responses.test_store import entry, filled, num_calls

_NAME = "responses-1.db"


@contextlib.asynccontextmanager
async def store_in(
    folder: Path, *, max_bytes: int = 64 << 20, clock: Callable[[], float] = time.monotonic
) -> AsyncIterator[ResponseStore]:
    """A store in a folder, as the service has it."""
    journal = DiskJournal(folder, clock=clock)
    store = ResponseStore(max_bytes, journal=journal, clock=clock)
    async with kept_responses(store, Background(), journal, interrupted):
        yield store


def everything_in(folder: Path) -> bytes:
    """The bytes of all files, as a thief of the card reads them."""
    return b"".join(path.read_bytes() for path in sorted(folder.iterdir()))


def test_a_restart_changes_nothing_of_what_was_stored(tmp_path: Path) -> None:
    async def run() -> None:
        async with store_in(tmp_path) as store:
            last = filled(store, 1000, "key")
            other = filled(store, 3, "other", prefix="o")
            assert await store.commit()
            before = store.chain("key", last)
            size_bytes = store.size_bytes
        async with store_in(tmp_path) as store:
            assert store.chain("key", last) == before
            assert store.size_bytes == size_bytes
            tenth = (before or [])[99].id
            assert num_calls(lambda: store.chain("key", last)) <= 10.5 * num_calls(lambda: store.chain("key", tenth))
            assert store.chain("other", other) is not None
            assert store.chain("other", last) is None
            assert store.item("key", f"{last}_1") is not None

    asyncio.run(run())
    assert (tmp_path / _NAME).stat().st_mode & 0o777 == 0o600


def test_the_file_takes_about_as_much_as_the_memory_and_reading_writes_nothing(tmp_path: Path) -> None:
    async def run() -> None:
        async with store_in(tmp_path) as store:
            last = filled(store, 1000)
            await store.commit()
            size_bytes = store.size_bytes
        path = tmp_path / _NAME
        assert path.stat().st_size <= 1.3 * size_bytes
        written = path.stat().st_mtime_ns
        async with store_in(tmp_path) as store:
            assert store.chain("", last) is not None
            await store.commit()
        assert path.stat().st_mtime_ns == written

    asyncio.run(run())


def test_the_chain_that_was_continued_last_stays_longest_after_a_restart(tmp_path: Path) -> None:
    async def run() -> None:
        async with store_in(tmp_path) as store:
            first = filled(store, 4, prefix="a")
            second = filled(store, 4, prefix="b")
            store.put("", entry("a_next", first))
            await store.commit()
        async with store_in(tmp_path, max_bytes=9 * entry("a_0").size_bytes) as store:
            filled(store, 3, prefix="c")
            assert store.chain("", "a_next") is not None
            assert store.chain("", second) is None

    asyncio.run(run())


def test_what_is_deleted_is_in_no_file_any_more(tmp_path: Path) -> None:
    async def run() -> None:
        async with store_in(tmp_path) as store:
            for name in ("resp_a", "resp_b"):
                text = b'"the secret of ' + name.encode() + b'"'
                store.put("", StoredResponse(name, None, b"{}", (text,), (), (f"i_{name}",)))
            await store.commit()
            assert b"the secret of resp_a" in everything_in(tmp_path)
            store.delete("", "resp_a")
            assert await store.commit()
            assert b"the secret of resp_a" not in everything_in(tmp_path)
            assert b"the secret of resp_b" in everything_in(tmp_path)

    asyncio.run(run())


def test_a_revoked_keys_responses_leave_the_disk_too(tmp_path: Path) -> None:
    async def run() -> None:
        async with store_in(tmp_path) as store:
            last = filled(store, 2, "revoked")
            await store.commit()
            store.keep_only(["other"])
        async with store_in(tmp_path) as store:
            assert store.get("revoked", last) is None

    asyncio.run(run())


def test_what_is_thirty_days_old_is_forgotten_by_the_time_that_the_server_ran(tmp_path: Path) -> None:
    day_s, now_s = 86400.0, 7.0

    async def run() -> None:
        nonlocal now_s
        async with store_in(tmp_path, clock=lambda: now_s) as store:
            last = filled(store, 2)
            await store.commit()
            now_s += 20 * day_s
        now_s = 3.0  # monotonic clocks begin anew with the machine
        async with store_in(tmp_path, clock=lambda: now_s) as store:
            assert store.get("", last) is not None
            now_s += 11 * day_s
            filled(store, 1, prefix="other")
            await store.commit()
        async with store_in(tmp_path, clock=lambda: now_s) as store:
            assert store.get("", last) is None
            assert store.get("", f"other_{0:032d}") is not None

    asyncio.run(run())


def test_a_conversation_that_grows_writes_its_new_items_only(tmp_path: Path) -> None:
    ids = [f"msg_{i}" for i in range(40)]

    async def run() -> None:
        async with store_in(tmp_path) as store:
            conversation = new_conversation(b"{}", "conv_a")
            for item_id in ids:
                conversation = appended(conversation, [b'"' + b"x" * 4000 + b'"'], [item_id])
                assert store.put("", conversation)
                await store.commit()
            wal = tmp_path / f"{_NAME}-wal"
            assert wal.stat().st_size < 40 * 12 * 4096  # all items anew each time would be twenty times as many pages
            assert store.put("", without_items(conversation, {"msg_5"}))
        async with store_in(tmp_path) as store:
            found = store.conversation("", "conv_a")
            assert found is not None
            assert list(found.item_ids) == [item_id for item_id in ids if item_id != "msg_5"]
            assert store.get("", "conv_a") is None
            assert store.chain("", "conv_a") is None

    asyncio.run(run())


@pytest.mark.parametrize("damage", [b"", b"no database at all", None])
def test_a_damaged_file_is_replaced_with_one_line_in_the_log(
    tmp_path: Path, damage: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        async with store_in(tmp_path) as store:
            last = filled(store, 50)
            await store.commit()
        path = tmp_path / _NAME
        data = path.read_bytes()
        path.write_bytes(damage if damage is not None else data[: len(data) // 2 // 4096 * 4096])
        async with store_in(tmp_path) as store:
            assert store.get("", last) is None
            kept = filled(store, 2, prefix="new")
            assert await store.commit()
        async with store_in(tmp_path) as store:
            assert store.chain("", kept) is not None

    asyncio.run(run())
    assert len([r for r in caplog.records if "damaged" in r.message]) == (damage != b"")


def test_a_file_of_a_newer_version_is_ignored_with_one_line_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    newer = tmp_path / "responses-2.db"
    newer.write_bytes(b"of the future")

    async def run() -> None:
        async with store_in(tmp_path) as store:
            filled(store, 1)
            assert await store.commit()

    asyncio.run(run())
    assert newer.read_bytes() == b"of the future"
    assert len([r for r in caplog.records if "another version" in r.message]) == 1


def test_a_full_disk_stores_nothing_says_so_and_recovers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        async with store_in(tmp_path) as store:
            filled(store, 1, prefix="before")
            assert await store.commit()
            with no_file_grows(tmp_path):
                for i in range(3):
                    store.put("", entry(f"resp_full_{i}", num_bytes=200_000))
                    assert not await store.commit()
                    store.delete("", f"resp_full_{i}")
                faults = [store.fault]
            last = filled(store, 2, prefix="after")
            assert await store.commit()
            assert [fault is None for fault in (*faults, store.fault)] == [False, True]
        async with store_in(tmp_path) as store:
            assert store.chain("", last) is not None
            assert store.get("", "resp_full_0") is None

    asyncio.run(run())
    assert len([r for r in caplog.records if "cannot be stored" in r.message]) == 1


@contextlib.contextmanager
def no_file_grows(folder: Path) -> Iterator[None]:
    """Let every write beyond the present size of the files fail, as it does where the disk is full."""
    largest = max(path.stat().st_size for path in folder.iterdir())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)


def test_a_folder_that_cannot_be_used_is_a_fault_and_no_failure(tmp_path: Path) -> None:
    (tmp_path / "responses").write_bytes(b"a file where the folder should be")

    async def run() -> None:
        async with store_in(tmp_path / "responses") as store:
            assert store.fault is not None
            store.put("", entry("resp_a"))
            assert not await store.commit()

    asyncio.run(run())


def test_what_was_committed_outlives_a_kill(tmp_path: Path) -> None:
    program = textwrap.dedent("""
        import asyncio, itertools, sys
        from pathlib import Path
        from appliance.server.state.journal import DiskJournal
        from appliance.server.state.responses import ResponseStore, StoredResponse

        async def run():
            journal = DiskJournal(Path(sys.argv[1]))
            store = ResponseStore(64 << 20, journal=journal)
            await journal.load()
            for i in itertools.count():
                store.put("", StoredResponse(f"resp_{i}", None, b"{}", (b'"' + b"x" * 3000 + b'"',), (), (f"m_{i}",)))
                assert await store.commit()
                print(i, flush=True)

        asyncio.run(run())
    """)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        answered = [int(line) for line in itertools.islice(process.stdout, 60)]
        process.kill()
        answered += [int(line) for line in process.stdout]

    async def run() -> None:
        async with store_in(tmp_path) as store:
            for i in answered:
                assert store.get("", f"resp_{i}") is not None
            assert store.get("", f"resp_{answered[-1] + 2}") is None

    asyncio.run(run())


def test_two_that_wait_at_once_share_one_transaction(tmp_path: Path) -> None:
    async def run() -> None:
        async with store_in(tmp_path) as store:
            await store.commit()
            store.put("", entry("resp_a"))
            store.put("", entry("resp_b"))
            assert all(await asyncio.gather(store.commit(), store.commit()))
            with contextlib.closing(sqlite3.connect(tmp_path / _NAME)) as reader:
                assert reader.execute("SELECT count(*) FROM record").fetchone() == (2,)

    asyncio.run(run())


def test_another_setting_removes_what_was_kept_on_the_disk(starter_home: Home) -> None:
    with serving(a_config(responses={"store": "disk"}), starter_home) as server:
        create(server, input="A secret.", max_output_tokens=1)
        assert httpx2.get(f"{server.root_url}/ready").json()["faults"] == []
    assert b"A secret." in everything_in(starter_home.responses)
    with serving(a_config(), starter_home) as server:
        assert not any(starter_home.responses.iterdir())


def test_a_broken_disk_is_no_failure_of_an_answer(starter_home: Home) -> None:
    starter_home.responses.mkdir(exist_ok=True)
    starter_home.responses.rmdir()
    starter_home.responses.write_bytes(b"")
    try:
        with serving(a_config(responses={"store": "disk"}), starter_home) as server:
            made = create(server, input="Hi", max_output_tokens=1)
            assert made["store"] is False
            assert httpx2.get(f"{server.base_url}/responses/{made['id']}").status_code == 404
            request = {"model": MODEL, "input": "Hi", "background": True}
            assert httpx2.post(f"{server.base_url}/responses", json=request, timeout=60).status_code == 503
            assert httpx2.post(f"{server.base_url}/conversations", json={}).status_code == 507
            assert httpx2.get(f"{server.root_url}/health").json()["status"] == "degraded"
            assert "cannot be stored" in httpx2.get(f"{server.root_url}/ready").json()["faults"][0]
    finally:
        starter_home.responses.unlink()

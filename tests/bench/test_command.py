from __future__ import annotations

import argparse
import asyncio
import json
import mmap
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.bench.errors import BenchError
from appliance.bench.plan import GROUPS, BenchPlan, Endpoint
from appliance.bench.processes import listening_process, resident_memory, running_server
from appliance.cli import bench
from appliance.errors import BundleError, ConfigError, LanternError, ModelNotFoundError
from appliance.home import Home
from appliance.models import EngineSettings
from tests.bench.openai_peer import Peer, running

NOWHERE = "http://127.0.0.1:9"


def command(*words: str) -> int:
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    return bench.run(parser.parse_args(words))


@pytest.fixture
def empty_lantern_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LANTERN_HOME", str(tmp_path))
    monkeypatch.delenv("LANTERN_API_KEY", raising=False)
    return tmp_path


@pytest.fixture
def peers() -> Iterator[tuple[Peer, Peer]]:
    """Two servers in a loop of their own, since the command has one too."""
    found = Peer(name="ours"), Peer(name="theirs", refused=frozenset({"ignore_eos", "response_format"}), embeds=False)
    ready = threading.Event()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        async with running(found[0]), running(found[1]):
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert ready.wait(10)
    yield found
    loop.call_soon_threadsafe(stop.set)
    thread.join(10)
    loop.close()


@pytest.mark.usefixtures("empty_lantern_home")
def test_two_running_servers_are_compared_without_any_bundle(
    peers: tuple[Peer, Peer], capsys: pytest.CaptureFixture[str]
) -> None:
    ours, theirs = peers
    groups = "stream,schema,embeddings,memory"
    assert command("--device", ours.url, "--against", theirs.url, "--only", groups, "--quick", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert [s["label"] for s in report["subjects"]] == ["ours", "theirs"]
    assert report["engine"] is None
    rows = {row["name"]: row for row in report["figures"]}
    assert rows["one stream, context 128"]["ratio"] > 0
    assert len(rows["one stream, context 128"]["theirs"]["samples"]) == 2
    assert rows["held to a JSON Schema"]["theirs"]["note"].startswith("not supported (400")
    assert rows["32 x 20 words"]["ratio"] is None
    assert rows["resident memory at the end"]["median"] > 0


@pytest.mark.usefixtures("empty_lantern_home")
def test_the_table_is_printed_for_people(peers: tuple[Peer, Peer], capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--device", peers[0].url, "--only", "turn", "--repeat", "1") == 0
    assert "second turn, first token" in capsys.readouterr().out


@pytest.mark.usefixtures("empty_lantern_home")
@pytest.mark.parametrize(
    ("words", "kind", "sentence"),
    [
        ([], BundleError, "no model is installed in .*; build the starter models with: lantern-quantize starter"),
        (["--only", "memory"], BundleError, "no model is installed"),
        (["--device", NOWHERE], BenchError, "nothing answers at http://127.0.0.1:9/v1"),
        (
            ["--device", NOWHERE, "--only", "decode"],
            ConfigError,
            "decode cannot be measured on a server that runs already",
        ),
        (["--against", NOWHERE, "--only", "prefill"], ConfigError, "prefill cannot be measured"),
        (["--threads", "-1"], ConfigError, "engine.threads"),
    ],
)
def test_what_cannot_be_measured_is_one_sentence(words: list[str], kind: type[LanternError], sentence: str) -> None:
    with pytest.raises(kind, match=sentence) as raised:
        command(*words)
    assert raised.value.exit_code > 0
    assert "\n" not in raised.value.message


@pytest.mark.usefixtures("empty_lantern_home")
def test_an_unknown_model_of_a_running_server_is_one_sentence(peers: tuple[Peer, Peer]) -> None:
    with pytest.raises(ModelNotFoundError, match="cannot use the model 'wrong'"):
        command("--device", peers[0].url, "--model", "wrong")


@pytest.mark.usefixtures("empty_lantern_home")
def test_a_peer_that_does_not_answer_is_found_before_anything_is_measured(peers: tuple[Peer, Peer]) -> None:
    with pytest.raises(BenchError, match="nothing answers at"):
        command("--device", peers[0].url, "--against", NOWHERE)
    assert not peers[0].asked


@pytest.mark.parametrize("words", [["--only", "nonsense"], ["--only", ""], ["--repeat", "0"], ["--repeat", "x"]])
def test_a_bad_option_is_refused_with_what_is_allowed(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command(*words)
    assert words[0] in capsys.readouterr().err


def test_a_server_that_ends_at_once_says_why(empty_lantern_home: Path) -> None:
    async def start() -> None:
        async with running_server(EngineSettings(num_threads=1)):
            raise AssertionError

    with pytest.raises(BenchError, match=rf"ended before it was ready: no model is installed in {empty_lantern_home}"):
        asyncio.run(start())


def test_the_process_behind_a_loopback_url_is_found_and_weighed() -> None:
    async def weigh() -> None:
        async with running(Peer()) as peer:
            pid = await asyncio.to_thread(listening_process, peer.url)
            assert pid is not None
            memory = await asyncio.to_thread(resident_memory, pid)
            assert memory is not None
            assert 0 < (memory.anonymous_bytes or 1) <= memory.resident_bytes

    asyncio.run(weigh())
    assert listening_process("http://192.0.2.1:8080") is None


def test_a_plan_measures_only_what_fits_into_the_context() -> None:
    plan = BenchPlan(GROUPS, EngineSettings(context_length=1024))
    assert plan.contexts == (128, 512, 1024)
    assert BenchPlan(GROUPS, EngineSettings(context_length=64)).contexts == (64,)
    assert BenchPlan(("turn",), EngineSettings(), endpoint=Endpoint(NOWHERE)).wants("turn")


def test_a_server_of_our_own_is_started_measured_and_stopped(
    starter_home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LANTERN_HOME", str(starter_home.root))
    monkeypatch.setenv("LANTERN_API_KEY", "a-key-that-has-no-place-in-a-measurement")
    assert command("--only", "ready,turn,memory", "--repeat", "1", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert [s["label"] for s in report["subjects"]] == ["ours"]
    assert report["subjects"][0]["models"][0]["size_bytes"] > 0
    assert all(row["median"] > 0 for row in report["figures"])


def test_pages_that_are_mapped_three_times_count_once(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(bytes(range(256)) * (64 << 12))  # 64 MiB, in the page cache
    before = resident_memory(os.getpid())
    with path.open("rb") as file:
        mapped = [mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) for _ in range(3)]
        assert len({sum(one[:: mmap.PAGESIZE]) for one in mapped}) == 1
        after = resident_memory(os.getpid())
        for one in mapped:
            one.close()
    assert before is not None
    assert after is not None
    if Path("/proc/self/smaps_rollup").exists():
        assert after.resident_bytes - before.resident_bytes < 100 << 20


def test_memory_that_may_be_shared_is_no_file_s() -> None:
    before = resident_memory(os.getpid())
    with mmap.mmap(-1, 32 << 20) as shared:  # as keys and values are
        shared[:] = bytes(len(shared))
        after = resident_memory(os.getpid())
    assert before is not None
    assert after is not None
    if before.anonymous_bytes is not None and after.anonymous_bytes is not None:
        assert after.anonymous_bytes - before.anonymous_bytes > 30 << 20

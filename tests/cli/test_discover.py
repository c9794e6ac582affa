"""The table, the JSON, and the question that each device is asked."""

from __future__ import annotations

import asyncio
import io
import socket
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from rich.console import Console

from appliance.__main__ import main
from appliance.cli.discover import Row, device_table
from appliance.discovery import Device, ServiceRecord
from appliance.remote import KnownDevices
from appliance.remote.probe import Probe, probe, probe_all
from appliance.remote.trust import Candidate, Standing

if TYPE_CHECKING:
    from .conftest import Play


def device(port: int, *, name: str = "kitchen") -> Device:
    return Device(name, "lantern-aaaaaaaa.local.", port, ("127.0.0.1",), ServiceRecord("a" * 16, num_models=3), {})


def probed(play: Play) -> Probe:
    found = device(urlsplit(play.base_url).port or 0)
    return asyncio.run(probe_all([found], timeout_s=60.0))[found.base_url]


def test_a_device_tells_its_health_and_models_and_sees_no_key(play: Play) -> None:
    assert probed(play) == Probe("ok", ("all-minilm-l6-v2", "chatty"))
    assert all("Authorization" not in headers for headers in play.headers)


def test_a_device_that_asks_for_a_key_is_shown_without_its_models(play: Play) -> None:
    play.models = {"error": {"message": "You didn't provide an API key."}}
    assert probed(play) == Probe("ok", None)


def test_a_device_that_does_not_answer_is_shown_as_such() -> None:
    assert asyncio.run(probe_all([device(1)])) == {"http://127.0.0.1:1/v1": Probe("no answer")}


def test_a_device_that_takes_a_connection_and_is_too_busy_to_answer_is_slow_and_not_absent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        answer = asyncio.run(probe(f"http://127.0.0.1:{busy.getsockname()[1]}/v1", timeout_s=0.2))
    assert answer == Probe("slow")
    assert answer.answers


def test_an_answer_of_another_shape_is_no_list_of_models(play: Play) -> None:
    odd: list[object] = [[], {"data": 7}, "text", None]
    for play.models in odd:
        assert probed(play) == Probe("ok", None)
    play.models = {"data": [7, {"id": 7}, {"id": "x\x1b[31m"}]}
    assert probed(play) == Probe("ok", ("x�[31m",))


def row(found: Device, answer: Probe, standing: Standing = Standing.PLAIN, *, is_preferred: bool = False) -> Row:
    return Row(Candidate(found, found, standing), answer, is_preferred)


def shown(*rows: Row) -> str:
    screen = io.StringIO()
    Console(file=screen, width=100).print(device_table(rows))
    return screen.getvalue()


def test_a_foreign_name_is_not_read_as_markup_and_the_address_is_whole() -> None:
    table = shown(row(device(8080, name="[red]kitchen[/red]"), Probe("ready", ("a-rather-long-model-id",) * 3)))
    assert "[red]kitchen[/red]" in table
    assert "http://127.0.0.1:8080/v1" in table


def test_the_table_tells_the_load_the_trust_and_which_one_is_taken() -> None:
    busy = row(device(8080), Probe("ok", ("m",), num_running=3, num_waiting=2), Standing.KNOWN, is_preferred=True)
    silent = row(device(8081, name="attic"), Probe("no answer"), Standing.REFUSED)
    header, first, second = shown(busy, silent).splitlines()
    assert header.split() == ["Name", "Address", "Models", "Load", "Trust", "Version", "State"]
    assert first.split()[:2] == ["→", "kitchen"]
    assert "3 +2" in first
    assert "known, key" in first
    assert second.startswith(" ")
    assert "refused" in second


def test_a_device_tells_how_many_requests_it_has(play: Play) -> None:
    engines: dict[str, object] = {"a": {"num_running": 2, "num_waiting": 1}, "b": {"num_running": 1}, "c": "odd"}
    play.health = {"status": "ok", "engines": engines}
    assert (probed(play).num_running, probed(play).num_waiting) == (3, 1)
    play.health = {"status": "ok", "engines": 7}
    assert probed(play).num_running is None


def test_a_device_is_forgotten_by_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LANTERN_HOME", str(tmp_path))
    KnownDevices.load(tmp_path / "known_devices").remember("a" * 16, "sha256//" + "A" * 43 + "=", name="kitchen")
    assert main(["discover", "--forget", "--device", "Kitchen"]) == 0
    assert capsys.readouterr().err.startswith("Forgot kitchen (aaaaaaaaaaaaaaaa)")
    assert KnownDevices.load(tmp_path / "known_devices").all == ()
    assert main(["discover", "--forget", "--device", "Kitchen"]) == 4
    assert main(["discover", "--forget"]) == 2

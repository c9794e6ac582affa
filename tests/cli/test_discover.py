"""The table, the JSON, and the question that each device is asked."""

from __future__ import annotations

import asyncio
import io
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from rich.console import Console

from appliance.cli.discover import device_table
from appliance.discovery import Device, ServiceRecord
from appliance.remote.probe import Probe, probe_all

if TYPE_CHECKING:
    from .conftest import Play


def device(port: int, *, name: str = "kitchen") -> Device:
    return Device(name, "lantern-aaaaaaaa.local.", port, ("127.0.0.1",), ServiceRecord("a" * 16, num_models=3), {})


def probe(play: Play) -> Probe:
    found = device(urlsplit(play.base_url).port or 0)
    return asyncio.run(probe_all([found]))[found.base_url]


def test_a_device_tells_its_health_and_models_and_sees_no_key(play: Play) -> None:
    assert probe(play) == Probe("ok", ("all-minilm-l6-v2", "chatty"))
    assert all("Authorization" not in headers for headers in play.headers)


def test_a_device_that_asks_for_a_key_is_shown_without_its_models(play: Play) -> None:
    play.models = {"error": {"message": "You didn't provide an API key."}}
    assert probe(play) == Probe("ok", None)


def test_a_device_that_does_not_answer_is_shown_as_such() -> None:
    assert asyncio.run(probe_all([device(1)])) == {"http://127.0.0.1:1/v1": Probe("no answer")}


def test_an_answer_of_another_shape_is_no_list_of_models(play: Play) -> None:
    odd: list[object] = [[], {"data": 7}, "text", None]
    for play.models in odd:
        assert probe(play) == Probe("ok", None)
    play.models = {"data": [7, {"id": 7}, {"id": "x\x1b[31m"}]}
    assert probe(play) == Probe("ok", ("x�[31m",))


def test_a_foreign_name_is_not_read_as_markup_and_the_address_is_whole() -> None:
    found = device(8080, name="[red]kitchen[/red]")
    screen = io.StringIO()
    table = device_table([found], {found.base_url: Probe("ready", ("a-rather-long-model-id",) * 3)})
    Console(file=screen, width=80).print(table)
    assert "[red]kitchen[/red]" in screen.getvalue()
    assert "http://127.0.0.1:8080/v1" in screen.getvalue()

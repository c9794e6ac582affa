from __future__ import annotations

import json

from rich.console import Console

from appliance.bench.figures import Figure, Metric
from appliance.bench.machine import Machine, cpu_name_in, describe_machine
from appliance.bench.report import ModelSummary, Report, Subject
from appliance.bench.run import with_share
from appliance.bench.table import format_value, render
from appliance.models import EngineSettings

MACHINE = Machine("A [bold]CPU[/bold]", "aarch64", 4, 4 << 30, "Linux 6", "3.11.7", "1.32.0")
DECODE = Figure(Metric("decode", "decode at context 128", "tok/s"), (200.0, 210.0, 250.0))
STREAM = Figure(Metric("stream", "one stream, context 128", "tok/s"), (189.0,))
WAIT = Figure(Metric("turn", "second turn", "ms", lower_is_better=True), (20.0,))
SCHEMA = Figure(Metric("schema", "held to a schema", "tok/s"), note="not supported (400: no [such] thing)")


def a_report(*figures: Figure, peer: tuple[Figure, ...] | None = None, load: float = 0.1) -> Report:
    ours = Subject(
        "ours", "http://127.0.0.1:1/v1", (ModelSummary("chat", 147_100_000, "int4"), ModelSummary("encoder"))
    )
    settings = EngineSettings(num_threads=2, spinning=True)
    return Report(MACHINE, load, load, 5, settings, (ours,), figures, peer)


def text_of(report: Report) -> str:
    console = Console(width=140)
    with console.capture() as capture:
        console.print(render(report))
    return capture.get()


def test_the_heading_names_machine_settings_and_models() -> None:
    text = text_of(a_report(DECODE))
    assert "A [bold]CPU[/bold] (aarch64), 4 cores, 4.0 GiB; load 0.1 before, 0.1 after" in text
    assert "onnxruntime 1.32.0" in text
    assert "2 threads, spinning on, 4 slots of 2048 tokens" in text
    assert "ours: chat int4 147.1 MB, encoder (http://127.0.0.1:1/v1)" in text
    assert "median of 5 runs" in text


def test_a_row_shows_median_and_spread() -> None:
    line = next(line for line in text_of(a_report(DECODE)).splitlines() if line.startswith("decode at"))
    assert line.split() == ["decode", "at", "context", "128", "210", "200", "250", "tok/s"]


def test_a_row_that_could_not_be_measured_says_why() -> None:
    line = next(line for line in text_of(a_report(SCHEMA)).splitlines() if line.startswith("held"))
    assert "not supported (400: no [such] thing)" in line


def test_a_comparison_shows_both_and_how_much_better_ours_is() -> None:
    theirs = (Figure(STREAM.metric, (100.0,)), Figure(WAIT.metric, (10.0,)))
    lines = text_of(a_report(STREAM, WAIT, SCHEMA, peer=theirs)).splitlines()
    rows = {line[:11].strip(): line.split() for line in lines}
    assert rows["one stream,"][4:] == ["189", "100", "tok/s", "1.89"]
    assert rows["second turn"][2:] == ["20.0", "10.0", "ms", "0.50"]
    assert any("A ratio above 1 says that ours is better" in line for line in lines)


def test_a_busy_machine_is_told() -> None:
    assert "busy" in text_of(a_report(DECODE, load=4.5))
    assert "busy" not in text_of(a_report(DECODE, load=3.5))


def test_json_has_stable_names() -> None:
    report = json.loads(json.dumps(a_report(DECODE, SCHEMA).to_json()))
    assert set(report) == {"machine", "load_average", "repeat", "engine", "subjects", "figures"}
    assert report["engine"]["num_threads"] == 2
    assert report["subjects"][0]["models"][0] == {"name": "chat", "size_bytes": 147_100_000, "scheme": "int4"}
    decode, schema = report["figures"]
    assert decode == {
        "group": "decode",
        "name": "decode at context 128",
        "unit": "tok/s",
        "lower_is_better": False,
        "median": 210.0,
        "samples": [200.0, 210.0, 250.0],
        "note": None,
    }
    assert schema["median"] is None
    assert schema["samples"] == []


def test_json_of_a_comparison_has_the_ratio() -> None:
    theirs = (Figure(WAIT.metric, (30.0,)),)
    wait, decode = a_report(WAIT, DECODE, peer=theirs).to_json()["figures"]
    assert wait["theirs"] == {"median": 30.0, "samples": [30.0], "note": None}
    assert wait["ratio"] == 1.5
    assert decode["theirs"] is None
    assert decode["ratio"] is None


def test_one_stream_is_shown_as_a_share_of_the_speed_in_process() -> None:
    figures = with_share((STREAM, WAIT), [DECODE])
    assert [f.metric.name for f in figures] == ["one stream, context 128", "its share of in process", "second turn"]
    assert figures[1].median == 90.0
    assert with_share((STREAM, WAIT), []) == [STREAM, WAIT]


def test_values_have_three_digits_and_no_exponent() -> None:
    shown = [format_value(v) for v in (None, 0.0, 1.234, 12.34, 123.4, 1_234_567.0)]
    assert shown == ["–", "0.00", "1.23", "12.3", "123", "1234567"]


def test_the_cpu_is_named_as_the_kernel_names_it() -> None:
    assert cpu_name_in("processor\t: 0\nmodel name\t: Fast CPU\n\nprocessor\t: 1\n") == "Fast CPU"
    assert cpu_name_in("processor\t: 0\nBogoMIPS\t: 108.00\n") == ""


def test_this_machine_can_be_described() -> None:
    machine = describe_machine()
    assert machine.cpu
    assert machine.num_cores >= 1
    assert machine.memory_bytes > 0

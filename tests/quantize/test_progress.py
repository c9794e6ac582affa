"""Long work is visible: plain lines in a file, a live line in a terminal."""

from __future__ import annotations

import io
import threading

from rich.console import Console

from quantize.progress import Progress, StageProgress, memory_bytes


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class AnnouncingStream(io.StringIO):
    """A file that tells when a text has come."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text
        self.came = threading.Event()

    def write(self, text: str, /) -> int:
        if self._text in text:
            self.came.set()
        return super().write(text)


def test_a_file_gets_one_line_at_the_start_and_one_at_the_end() -> None:
    file = io.StringIO()
    with StageProgress(Console(file=file)) as progress, progress.stage("export") as done:
        done.advance_to(0.5)
    start, end = file.getvalue().splitlines()
    assert start == "export ..."
    assert end.startswith("export: ")
    assert end.endswith(" s")


def test_a_file_gets_a_line_every_30_seconds_with_percent_time_left_and_memory() -> None:
    file, clock = io.StringIO(), Clock()
    shown = StageProgress(Console(file=file), clock=clock, memory=lambda: 1_230_000_000)
    with shown, shown.stage("fit") as done:
        for second, fraction in ((10, 0.1), (29, 0.2), (30, 0.25), (31, 0.25), (59, 0.4), (360, 0.5)):
            clock.now_s = 100.0 + second
            done.advance_to(fraction)
    assert file.getvalue().splitlines() == [
        "fit ...",
        "fit: 25%, 90 s left, 1.2 GB",
        "fit: 50%, 6 min left, 1.2 GB",
        "fit: 360.0 s",
    ]


def test_a_stage_that_reports_nothing_gets_its_lines_too() -> None:
    file = AnnouncingStream("so far")
    shown = StageProgress(Console(file=file), interval_s=0.01, memory=lambda: 2 * 10**9)
    with shown, shown.stage("export"):
        assert file.came.wait(10)
    assert file.getvalue().splitlines()[1] == "export: 0 s so far, 2.0 GB"


def test_a_terminal_gets_the_stage_its_percent_and_its_time() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=100)
    with StageProgress(console) as progress, progress.stage("export") as done:
        done.advance_to(0.5)
    said = file.getvalue()
    assert "export" in said
    assert "100%" in said
    assert "0:00:00" in said


def test_a_terminal_gets_the_time_left_and_the_memory() -> None:
    file, clock = AnnouncingStream("60 s left"), Clock()
    console = Console(file=file, force_terminal=True, width=120)
    with StageProgress(console, clock=clock, memory=lambda: 3_400_000_000) as progress, progress.stage("fit") as done:
        clock.now_s += 20
        done.advance_to(0.25)
        assert file.came.wait(10)
    assert "3.4 GB" in file.getvalue()


def test_the_memory_of_a_run_is_more_than_that_of_an_empty_interpreter() -> None:
    assert 10**7 < memory_bytes() < 10**12


def test_the_parts_of_work_are_told_as_fractions_of_the_whole() -> None:
    told: list[float] = []
    first, second = Progress(told.append).parts(2)
    first.advance_to(0.5)
    second.part(0.5, 1).advance_to(1)
    second.part(0.5, 1).advance_to(7)
    assert told == [0.25, 1.0, 1.0]


def test_parts_that_run_at_once_add_up() -> None:
    told: list[float] = []
    graph, fits = Progress(told.append).part(0, 0.5).together(0.25, 0.75)
    graph.advance_to(1)
    fits.advance_to(0.5)
    graph.advance_to(1)
    fits.advance_to(1)
    assert told == [0.125, 0.3125, 0.3125, 0.5]

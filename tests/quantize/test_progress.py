"""Long work is visible: plain lines in a file, a live line in a terminal."""

from __future__ import annotations

import io

from rich.console import Console

from quantize.progress import StageProgress


def test_a_file_gets_one_line_at_the_start_and_one_at_the_end() -> None:
    file = io.StringIO()
    with StageProgress(Console(file=file)) as progress, progress.stage("export"):
        progress.advance_to(0.5)
    start, end = file.getvalue().splitlines()
    assert start == "export ..."
    assert end.startswith("export: ")
    assert end.endswith(" s")


def test_a_terminal_gets_the_stage_its_percent_and_its_time() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=100)
    with StageProgress(console) as progress, progress.stage("export"):
        progress.advance_to(0.5)
    said = file.getvalue()
    assert "export" in said
    assert "100%" in said
    assert "0:00:00" in said

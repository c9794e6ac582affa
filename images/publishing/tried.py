"""The record of the tests that ran at the commit of a release: what passed, what was left out and why, what never ran.

`make test`, `make image-test` and the longer runs leave records in build/tried/COMMIT, in a folder with another name
while files are changed.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from images.workplace import ROOT

FOLDER = ROOT / "build" / "tried"
# Each record, and the command that leaves it.
RUNS = {
    "test": "make test (first pass)",
    "test-alone": "make test (second pass)",
    "image-test": "make image-test",
    "crashes": "make crashes",
    "kills": "make kills",
    "soak": "make soak",
    "figures": "make figures",
    "fuzz": "make fuzz",
}
_CHECKLIST = ROOT / "images" / "CHECKLIST.md"


@dataclass(frozen=True, slots=True)
class Run:
    """One record; counts are those of tests, `skipped` is by reason. A run that is no test has a note instead."""

    command: str
    num_passed: int = 0
    num_failed: int = 0
    skipped: tuple[tuple[str, int], ...] = ()
    seconds: float = 0.0
    note: str = ""


def read_runs(commit: str, folder: Path = FOLDER) -> dict[str, Run | None]:
    """Return the records of a commit; None where there is none."""
    found: dict[str, Run | None] = {}
    for name, command in RUNS.items():
        tests, note = folder / commit / f"{name}.xml", folder / commit / f"{name}.txt"
        if tests.is_file():
            found[name] = _of_tests(command, tests)
        elif note.is_file():
            found[name] = Run(command, note=note.read_text("utf-8").strip())
        else:
            found[name] = None
    return found


def failed(runs: dict[str, Run | None]) -> list[str]:
    """Return the commands in which a test failed."""
    return [run.command for run in runs.values() if run is not None and run.num_failed]


def describe(runs: dict[str, Run | None]) -> str:
    """Return what was tried and what was not, as Markdown."""
    lines = ["## What was tried", ""]
    done = [run for run in runs.values() if run is not None]
    if done:
        lines += ["| command | passed | left out | minutes |", "|---|---|---|---|"]
        lines += [_row(run) for run in done]
        reasons = Counter[str]()
        for run in done:
            reasons.update(dict(run.skipped))
        lines += ["", *(f"- left out {num} times: {reason}" for reason, num in sorted(reasons.items()))]
    else:
        lines.append("Nothing: there is no record of any test at this commit.")
    absent = [RUNS[name] for name, run in runs.items() if run is None]
    lines += ["", "## What was not tried", ""]
    lines += [f"- {command}: there is no record of it at this commit" for command in absent]
    lines += ["- Everything on hardware:", "", _CHECKLIST.read_text("utf-8").partition("\n")[2].strip()]
    return "\n".join(lines) + "\n"


def _row(run: Run) -> str:
    if run.note:
        return f"| {run.command} {run.note} | yes | | |"
    num_skipped = sum(num for _, num in run.skipped)
    return f"| {run.command} | {run.num_passed} | {num_skipped} | {run.seconds / 60:.0f} |"


def _of_tests(command: str, path: Path) -> Run:
    skipped, num_passed, num_failed, seconds = Counter[str](), 0, 0, 0.0
    for suite in ElementTree.parse(path).getroot().iter("testsuite"):  # noqa: S314 - pytest wrote it here
        seconds += float(suite.get("time", "0"))
        for case in suite.iter("testcase"):
            left_out = case.find("skipped")
            if left_out is not None:
                skipped[left_out.get("message", "no reason")] += 1
            elif case.find("failure") is not None or case.find("error") is not None:
                num_failed += 1
            else:
                num_passed += 1
    return Run(command, num_passed, num_failed, tuple(sorted(skipped.items())), seconds)

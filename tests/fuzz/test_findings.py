"""Inputs on which a parser once failed, or that are typical of what it reads; found by hand and by `make fuzz`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS
from tests.fuzz.typical import TYPICAL, real_inputs

_FINDINGS = sorted(path for path in Path(__file__).with_name("findings").glob("*/*") if path.is_file())


def test_every_target_has_typical_inputs() -> None:
    assert TYPICAL.keys() == TARGETS.keys()


@pytest.mark.parametrize("target", TARGETS)
def test_typical_inputs_are_read_or_refused(target: str) -> None:
    for data in (*TYPICAL[target], *real_inputs(target)):
        TARGETS[target](data)


@pytest.mark.parametrize("path", _FINDINGS, ids=lambda path: f"{path.parent.name}-{path.name[:20]}")
def test_a_finding_fails_no_more(path: Path) -> None:
    TARGETS[path.parent.name](path.read_bytes())

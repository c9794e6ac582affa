"""Sealed reasoning: opened by the device that sealed it, and by nobody else."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.errors import ConfigError
from appliance.server.state.sealing import Sealer

SEALER = Sealer()


@settings(max_examples=30, deadline=None)
@given(st.text())
def test_what_was_sealed_is_opened(text: str) -> None:
    assert SEALER.open(SEALER.seal(text)) == text


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 60), st.text(max_size=8))
def test_what_was_cut_or_changed_is_not(size: int, end: str) -> None:
    sealed = SEALER.seal("thoughts about whales and the sea")
    changed = sealed[:size] + end
    assert SEALER.open(changed) is None
    assert Sealer().open(sealed) is None


def test_the_key_is_the_devices_own_and_private(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "sealing.key"
    sealed = Sealer.load(path).seal("thoughts")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Sealer.load(path).open(sealed) == "thoughts"
    assert [file.name for file in path.parent.iterdir()] == ["sealing.key"]
    path.write_bytes(b"short")
    with pytest.raises(ConfigError, match="5 bytes"):
        Sealer.load(path)

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from appliance.home import Home
from quantize.progress import StageProgress


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def progress() -> StageProgress:
    return StageProgress(Console(file=io.StringIO()))

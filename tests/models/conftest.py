from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.models.device import Device


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    made = Device(tmp_path)
    yield made
    made.may_load.set()

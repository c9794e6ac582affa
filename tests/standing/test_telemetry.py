"""onnxruntime keeps to itself what it runs: its telemetry would leave an identity below the home folder, and send."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_RUN = (
    "from appliance.engine.runtime.product import product_is_right; "
    "assert product_is_right(); import time; time.sleep(1)"
)
_SILENCED = ("CI", "ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS", "XDG_CACHE_HOME")


@pytest.mark.parametrize("package", ["appliance", "quantize"])
def test_running_a_model_leaves_no_trace_of_telemetry(package: str, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in _SILENCED}
    code = f"import {package}; {_RUN}"
    subprocess.run([sys.executable, "-c", code], check=True, env={**environment, "HOME": str(tmp_path)})
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]

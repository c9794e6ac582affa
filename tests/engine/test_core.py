"""The engine's core knows no runtime: neither onnxruntime nor llguidance is loaded with it."""

from __future__ import annotations

import subprocess
import sys

import pytest

CORE = ("types", "engine", "scheduler", "slots", "sampler", "drafter", "loop", "worker")


@pytest.mark.parametrize("module", [*CORE, "texts.loop", "graphs.prompt", "graphs.variants"])
def test_a_module_of_the_core_loads_no_runtime(module: str) -> None:
    code = f"import sys, appliance.engine.{module}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert f"appliance.engine.{module}" in loaded
    assert {name.split(".")[0] for name in loaded}.isdisjoint({"onnxruntime", "llguidance", "tokenizers", "aiohttp"})

"""Findings about GPUs: a driver without memory, a silent fallback, a Jetson with the wrong onnxruntime."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from appliance.bundle import BundleStore, TrustedKeys
from appliance.diagnosis.device import check_device
from appliance.diagnosis.finding import Level
from appliance.engine.runtime.gpu import provider_fault
from appliance.engine.runtime.product import product_fault
from appliance.engine.runtime.provider import CPU
from appliance.home import Home
from tests.bundle.workshop import Workshop, install_untried

_CUDA = "CUDAExecutionProvider"
_NVMAP = "NvMapMemAllocInternalTagged: 1075072515 error 12"


def test_a_machine_without_a_gpu_tells_nothing(tmp_path: Path) -> None:
    assert check_device(Home(tmp_path), tmp_path, providers=[]) == []


@pytest.mark.parametrize("sign", ["etc/nv_tegra_release", "proc/device-tree/compatible"])
def test_a_jetson_whose_onnxruntime_has_no_gpu_is_told(tmp_path: Path, sign: str) -> None:
    (tmp_path / sign).parent.mkdir(parents=True)
    (tmp_path / sign).write_bytes(b"nvidia,p3768-0000+p3767-0005\0nvidia,tegra234\0")
    [finding] = check_device(Home(tmp_path), tmp_path, providers=[])
    assert finding.level is Level.NOTE
    assert "only the processor's provider" in finding.text


def test_a_gpu_that_computes_nothing_is_named_with_the_reason(tmp_path: Path) -> None:
    [finding] = check_device(Home(tmp_path), tmp_path, providers=["NoExecutionProvider"])
    assert finding.level is Level.NOTE
    assert "NoExecutionProvider cannot compute here: this onnxruntime has no" in finding.text
    assert "driver" in finding.remedy
    [works] = check_device(Home(tmp_path), tmp_path, providers=[CPU])
    assert works.level is Level.GOOD


def test_an_nvmap_error_is_told_with_what_helps(tmp_path: Path) -> None:
    [finding] = check_device(Home(tmp_path), tmp_path, providers=[_CUDA], fault_of=lambda _: _NVMAP)
    assert finding.level is Level.NOTE
    assert _NVMAP in finding.text
    assert "/dev/nvmap" in finding.remedy


def test_the_line_about_nvmap_is_found_in_what_a_child_prints(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The child is a real process; it prints as NVIDIA's driver does before CUDA gives up."""
    printing = tmp_path / "failing_product.py"
    lines = [_NVMAP, "NvMapMemHandleAlloc: error 0", "CUDA failure 2: out of memory"]
    printing.write_text(f"import sys\nsys.stderr.write({chr(10).join(lines)!r})\nsys.exit(1)\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    assert provider_fault(_CUDA, product="failing_product") == _NVMAP
    printing.write_text("import sys\nsys.exit('CUDA failure 35: driver too old')\n")
    assert provider_fault(_CUDA, product="failing_product") == "CUDA failure 35: driver too old"
    printing.write_text("")
    assert provider_fault(_CUDA, product="failing_product") is None


def test_a_silent_fallback_to_the_processor_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime gives a session on the processor, and no error, where a provider's libraries do not load."""

    class Session:
        def __init__(self, *_: object, **__: object) -> None:
            pass

        def get_providers(self) -> list[str]:
            return [CPU]

    monkeypatch.setattr("appliance.engine.runtime.product.ort.get_available_providers", lambda: [_CUDA, CPU])
    monkeypatch.setattr("appliance.engine.runtime.product.ort.InferenceSession", Session)
    assert product_fault(_CUDA) == f"onnxruntime fell back to {CPU} without an error"


def test_the_product_tells_its_fault_where_the_parent_reads_it() -> None:
    command = [sys.executable, "-m", "appliance.engine.runtime.product", "NoExecutionProvider"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr.strip()) == (1, "this onnxruntime has no NoExecutionProvider")


def test_a_model_that_was_left_on_the_processor_is_told(tmp_path: Path) -> None:
    home, workshop = Home(tmp_path / "home"), Workshop(tmp_path)
    trusted = TrustedKeys.load(home.trusted_keys)
    trusted.add(workshop.key.public)
    store = BundleStore(home.bundles, trusted)
    with store.writing():
        install_untried(store, workshop.make(name="tiny"))
    record = home.prepacked / "tiny" / "form" / "device.json"
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps({"provider": None}))
    computes, left = check_device(home, tmp_path, providers=[_CUDA], fault_of=lambda _: None)
    assert computes.level is Level.GOOD
    assert (left.level, left.text.split()[0]) == (Level.NOTE, "tiny")
    record.write_text(json.dumps({"provider": _CUDA}))
    [computes] = check_device(home, tmp_path, providers=[_CUDA], fault_of=lambda _: None)
    assert computes.level is Level.GOOD

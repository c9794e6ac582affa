from __future__ import annotations

import platform
import shutil
import subprocess
import sys

import pytest

from appliance.engine.runtime.product import product_is_right


def test_this_machine_multiplies() -> None:
    assert product_is_right()


def test_the_command_says_so_by_its_exit_code() -> None:
    assert subprocess.run([sys.executable, "-m", "appliance.engine.runtime.product"], check=False).returncode == 0


def test_a_provider_that_is_not_there_computes_nothing() -> None:
    assert not product_is_right("CUDAExecutionProvider")
    command = [sys.executable, "-m", "appliance.engine.runtime.product", "CUDAExecutionProvider"]
    assert subprocess.run(command, check=False).returncode == 1


# The emulator runs this machine's own Python and onnxruntime, so that an Arm machine cannot try it.
@pytest.mark.skipif(platform.machine() != "x86_64", reason="only x86 programs can be given an x86 processor")
def test_an_x86_processor_without_vnni_is_known_for_what_it_does() -> None:
    emulator = shutil.which("qemu-x86_64") or shutil.which("qemu-x86_64-static")
    if emulator is None:  # make image-deps, and with it .ci/run, installs it
        pytest.skip("qemu-x86_64 is not installed, which emulates a processor without VNNI: make image-deps")
    told = "from appliance.engine.runtime.product import *; print(int8_products_are_exact(), int4_rows_are_equal())"
    haswell = [emulator, "-cpu", "Haswell,-hle,-rtm", sys.executable, "-c", told]
    done = subprocess.run(haswell, check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["False", "False"]

from __future__ import annotations

import subprocess
import sys

from appliance.engine.runtime.product import product_is_right


def test_this_machine_multiplies() -> None:
    assert product_is_right()


def test_the_command_says_so_by_its_exit_code() -> None:
    assert subprocess.run([sys.executable, "-m", "appliance.engine.runtime.product"], check=False).returncode == 0


def test_a_provider_that_is_not_there_computes_nothing() -> None:
    assert not product_is_right("CUDAExecutionProvider")
    command = [sys.executable, "-m", "appliance.engine.runtime.product", "CUDAExecutionProvider"]
    assert subprocess.run(command, check=False).returncode == 1

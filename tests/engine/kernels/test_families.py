"""Every family of kernels equals the reference to the bit: here with sanitizers, and on emulated Arm processors."""

from __future__ import annotations

import platform
import re
import subprocess
from pathlib import Path

import pytest

from tests.engine.kernels.building import need

pytestmark = pytest.mark.slow

_NATIVE = pytest.mark.skipif(platform.machine() not in ("x86_64", "aarch64"), reason="no family for this architecture")
# Which families a processor has: the emulator's models, by the instructions that they lack.
_ARM = {
    "cortex-a53": {"portable", "neon"},
    "cortex-a72": {"portable", "neon"},
    "cortex-a76": {"portable", "neon", "dotprod"},
    "max": {"portable", "neon", "dotprod", "i8mm"},
}


def _run(*command: str | Path) -> str:
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def _num_compared(output: str) -> int:
    found = re.fullmatch(r"(\d+) products equal, weights of (\d+) shapes with steps\n", output)
    assert found, output
    assert int(found[2]) >= int(found[1]) // 40  # the scales of all others are floats
    return int(found[1])


@_NATIVE
def test_every_family_equals_the_reference_for_all_classes_of_shapes(native_program: Path) -> None:
    families = _run(native_program, "families").split()
    assert len(families) >= 2
    assert _num_compared(_run(native_program, "shapes")) >= 1000 * len(families)


@_NATIVE
@pytest.mark.parametrize("seed", range(4))
def test_random_sizes_and_alignments_equal_the_reference(native_program: Path, seed: int) -> None:
    assert _num_compared(_run(native_program, "fuzz", str(seed), "250")) >= 500


@pytest.mark.parametrize("processor", _ARM)
def test_every_arm_family_equals_the_reference(emulator: str, arm_program: Path, processor: str) -> None:
    board = (emulator, "-cpu", processor, arm_program)
    families = set(_run(*board, "families").split())
    assert families == _ARM[processor]
    assert _num_compared(_run(*board, "shapes")) >= 1000 * len(families)
    assert _num_compared(_run(*board, "fuzz", "7", "100")) == 100 * len(families)


def test_the_loops_over_floats_give_the_same_bits_on_every_processor(
    emulator: str, native_floats: Path, arm_floats: Path
) -> None:
    native = _run(native_floats)
    for processor in ("cortex-a53", "cortex-a76", "max"):
        assert _run(emulator, "-cpu", processor, arm_floats) == native


# On Arm the loops have one form, which the test above runs on three processors.
@pytest.mark.skipif(platform.machine() != "x86_64", reason="only x86 programs can be given an x86 processor")
@pytest.mark.parametrize("processor", ["Nehalem", "Haswell,-hle,-rtm"])
def test_the_loops_over_floats_give_the_same_bits_with_narrow_and_wide_vectors(
    native_floats: Path, processor: str
) -> None:
    need("qemu-x86_64")
    assert _run("qemu-x86_64", "-cpu", processor, native_floats) == _run(native_floats)


def test_silu_is_exact_to_a_millionth(native_floats: Path) -> None:
    *_, worst = _run(native_floats).split()
    assert 0 < float(worst) < 1e-6

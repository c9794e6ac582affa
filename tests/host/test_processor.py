"""The kind of a processor, from the text that Linux gives."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.host.processor import processor_kind

_PI_4 = "fp asimd evtstrm crc32 cpuid"
_PI_5 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
_NEWER = f"{_PI_5} i8mm bf16"


@pytest.mark.parametrize(
    ("machine", "cores", "kind"),
    [
        ("aarch64", [_PI_4], "neon"),
        ("aarch64", [_PI_5] * 4, "dotprod"),
        ("arm64", [_NEWER], "i8mm"),
        ("aarch64", [_NEWER, _PI_5], "dotprod"),  # large and small cores: a thread may run on each
        ("aarch64", [_PI_5, _PI_4], "neon"),
        ("x86_64", ["sse4_2"], "x86"),
        ("riscv64", [], "other"),
    ],
)
def test_a_processor_is_known_by_the_features_that_all_cores_have(
    tmp_path: Path, machine: str, cores: list[str], kind: str
) -> None:
    text = "\n".join(f"processor\t: {at}\nFeatures\t: {features}\n" for at, features in enumerate(cores))
    (tmp_path / "cpuinfo").write_text(text)
    assert processor_kind(machine, tmp_path / "cpuinfo") == kind


def test_an_arm_processor_that_tells_nothing_is_taken_for_the_simplest(tmp_path: Path) -> None:
    assert processor_kind("aarch64", tmp_path / "absent") == "neon"

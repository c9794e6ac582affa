"""The library of kernels that the package gets: built for the device's processor, from the sources of the commit."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from images.deb.kernels import FILES, add_kernels
from images.workplace import ROOT
from tests.engine.kernels.building import need

FAMILIES = {"neon", "dotprod", "i8mm", "avx2", "avxvnni", "avx512vnni", "portable"}
_MACHINES = {"arm64": 183, "amd64": 62}  # of the ELF header
_COMPILERS = {"arm64": "aarch64-linux-gnu-g++", "amd64": "x86_64-linux-gnu-g++"}

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("architecture", ["arm64", "amd64"])
def test_the_library_is_the_one_of_the_device_s_processor_and_the_same_twice(tmp_path: Path, architecture: str) -> None:
    need("make", _COMPILERS[architecture])
    for name in ("first", "second"):
        if not add_kernels(ROOT, architecture, tmp_path / name):
            pytest.skip("no onnxruntime_c_api.h to be had: set ORT_INCLUDE")
    library, checksum = (tmp_path / "first" / name for name in FILES)
    content = library.read_bytes()
    assert int.from_bytes(content[18:20], "little") == _MACHINES[architecture]
    assert checksum.read_text("ascii").split()[0] == hashlib.sha256(content).hexdigest()
    assert (tmp_path / "second" / library.name).read_bytes() == content


def test_a_builder_without_the_compiler_makes_a_package_without_kernels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not add_kernels(ROOT, "arm64", tmp_path / "target")
    assert not (tmp_path / "target").exists()
    assert "no kernels of Lantern's own" in capsys.readouterr().out


def test_the_service_installed_by_hand_gets_the_library_that_was_built(tmp_path: Path) -> None:
    need("sh")
    script = (ROOT / "systemd/install.sh").read_text("utf-8")
    begin = script.index("kernels=appliance/engine/kernels/build")
    part = script[begin : script.index("\nfi\n", begin) + 4]
    site = tmp_path / "site"
    python = tmp_path / "prefix/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\necho {site}\n", "utf-8")
    python.chmod(0o755)
    built = tmp_path / "appliance/engine/kernels/build"
    command = ["sh", "-euc", f"prefix={tmp_path}/prefix\n{part}"]
    subprocess.run(command, cwd=tmp_path, check=True)
    assert not site.exists()
    built.mkdir(parents=True)
    for name in FILES:
        (built / name).write_text(name, "utf-8")
    subprocess.run(command, cwd=tmp_path, check=True)
    assert sorted(p.name for p in (site / built.relative_to(tmp_path)).iterdir()) == sorted(FILES)

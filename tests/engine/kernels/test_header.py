"""The header of onnxruntime's C API, found once for builds that run beside each other."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from appliance.engine.kernels import LIBRARY
from tests.engine.kernels.building import ROOT

_SCRIPT = ROOT / "appliance/engine/kernels/find_header.sh"
_HEADER = "onnxruntime_c_api.h"
_SYSTEM = [Path(folder) / "onnxruntime" / _HEADER for folder in ("/usr/include", "/usr/local/include")]
_APT_GET = """#!/bin/sh
case "$*" in
*indextargets*) echo http://mirror.invalid/debian ;;
*download*) cp "{package}" libonnxruntime-dev_1.21.0_amd64.deb; sleep 0.2 ;;
esac
"""


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    """A folder with an apt-get that gives a package of the header which this machine has."""
    found = LIBRARY.with_name("header")
    if shutil.which("dpkg-deb") is None or not found.exists():
        pytest.skip("dpkg-deb and the header of an earlier build are needed")
    if any(path.exists() for path in _SYSTEM):
        pytest.skip("this system has the header")
    tree = tmp_path / "package"
    (tree / "DEBIAN").mkdir(parents=True)
    control = (
        "Package: libonnxruntime-dev\nVersion: 1.21.0\nArchitecture: all\nMaintainer: a <a@example>\nDescription: a\n"
    )
    (tree / "DEBIAN/control").write_text(control)
    include = tree / "usr/include/onnxruntime"
    include.mkdir(parents=True)
    shutil.copy(Path(found.read_text().strip()) / _HEADER, include)
    package = tmp_path / "package.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "--build", tree, package], check=True, capture_output=True)
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "apt-get").write_text(_APT_GET.format(package=package))
    (programs / "apt-get").chmod(0o755)
    return programs


def test_builds_that_share_a_folder_all_find_it(mirror: Path, tmp_path: Path) -> None:
    build = tmp_path / "build"
    environment = {name: value for name, value in os.environ.items() if name != "ORT_INCLUDE"}
    environment["PATH"] = f"{mirror}:{environment['PATH']}"
    running = [subprocess.Popen([_SCRIPT, build], env=environment, stderr=subprocess.PIPE) for _ in range(6)]
    assert [(process.communicate()[1], process.returncode) for process in running] == [(b"", 0)] * len(running)
    assert (Path((build / "header").read_text().strip()) / _HEADER).exists()
    assert {path.name for path in build.iterdir()} == {"header", "libonnxruntime-dev-1.21"}

"""The build: what it needs, and what it promises of its objects."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from appliance.engine.kernels import KernelLibrary
from tests.engine.kernels.building import ROOT, need

pytestmark = pytest.mark.slow

_PAGES = (
    "x86_quantize",
    "lanes_avx2",
    "lanes_avx512",
    "avx2",
    "avxvnni",
    "avx512vnni",
    "dotprod",
    "i8mm",
)


def test_a_page_of_instructions_shares_no_function_with_another(library: KernelLibrary) -> None:
    # The linker keeps one copy of a shared function: it could be one with instructions that this processor lacks.
    need("nm")
    pages = [page for page in (library.path.parent / f"{name}.o" for name in _PAGES) if page.exists()]
    listed = subprocess.run(["nm", *pages], check=True, capture_output=True, text=True).stdout.split("\n")
    assert [line for line in listed if line[17:18] in ("W", "V", "u")] == []
    assert len(pages) >= 2


def test_the_library_exports_its_own_names_only(library: KernelLibrary) -> None:
    need("nm")
    listed = subprocess.run(
        ["nm", "-D", "--defined-only", library.path], check=True, capture_output=True, text=True
    ).stdout
    names = {line.split()[-1] for line in listed.splitlines()}
    assert names == {
        "RegisterCustomOps",
        "lantern_api_version",
        "lantern_family",
        "lantern_pack",
        "lantern_packed_bits",
        "lantern_packed_size",
    }


def test_without_a_compiler_the_stock_operators_serve(tmp_path: Path) -> None:
    need("make")
    command = ["make", "-s", "-f", "kernels.mk", "kernels", f"KERNEL_BUILD={tmp_path}", "KERNEL_CXX=no-such-compiler"]
    made = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert made.stdout == "No no-such-compiler: no products of our own, the stock operators serve\n"
    assert list(tmp_path.iterdir()) == []

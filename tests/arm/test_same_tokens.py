"""One bundle, one text, three processors: with Lantern's kernels every logit that is compared has the same bits."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from appliance.engine.kernels import LIBRARY, KernelLibrary
from appliance.home import Home
from images.workplace import ROOT
from tests.arm import decoder
from tests.arm.decoder import Best, read_best_tokens
from tests.arm.tree import Tree, lacking, working_tree
from tests.engine.kernels.building import built, make, need

pytestmark = pytest.mark.slow

_COMPILER = "aarch64-linux-gnu-g++"
_PROCESSORS = ("cortex-a72", "cortex-a76")  # without and with dot products
_TIMEOUT_S = 900


@pytest.fixture(scope="module")
def tree() -> Tree:
    reason = lacking()
    if reason is not None:
        pytest.skip(reason)
    return working_tree()


@pytest.fixture(scope="module")
def arm_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("make", _COMPILER)
    build = tmp_path_factory.mktemp("arm-library")
    make("kernels", build, f"KERNEL_CXX={_COMPILER}")
    return built(build / LIBRARY.name)


@pytest.fixture(scope="module")
def here(starter_home: Home, library: KernelLibrary, tmp_path_factory: pytest.TempPathFactory) -> list[Best]:
    """The best tokens on this processor."""
    bundle = starter_home.bundles / "smollm2-135m-instruct" / "active"
    forms = tmp_path_factory.mktemp("here") / "forms"
    decoder.make(bundle.resolve(), forms, library.path)
    return decoder.best_tokens(forms / "kernels", library.path)


@pytest.fixture(scope="module")
def there(
    tree: Tree, arm_library: Path, starter_home: Home, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[Best]]:
    """The best tokens on each processor."""
    bundle = (starter_home.bundles / "smollm2-135m-instruct" / "active").resolve()
    found = {}
    for processor in _PROCESSORS:
        folder = tmp_path_factory.mktemp(processor)
        forms, out = folder / "forms", folder / "tokens"
        for arguments in (("make", bundle, forms, arm_library), ("tokens", forms / "kernels", arm_library, out)):
            command = tree.python(processor, "-m", "tests.arm.decoder", *arguments)
            subprocess.run(command, cwd=ROOT, check=True, timeout=_TIMEOUT_S)
        found[processor] = read_best_tokens(out)
    return found


def test_every_processor_computes_the_same_bits(there: dict[str, list[Best]], here: list[Best]) -> None:
    assert len(here) >= 100
    for best in there.values():
        assert best == here

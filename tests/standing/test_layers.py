from __future__ import annotations

import subprocess
import sys


def loaded_by(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(' '.join(sys.modules))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_the_device_loads_none_of_the_workstations_packages() -> None:
    modules = loaded_by("import appliance.__main__")
    assert not modules & {"torch", "transformers", "optimum", "onnx", "quantize", "huggingface_hub", "openai"}


def test_the_engine_loads_no_http() -> None:
    modules = loaded_by(
        "import appliance.engine.loop, appliance.engine.texts.loop, appliance.engine.runtime.model_runner"
    )
    assert "aiohttp" not in modules


def test_the_quantize_command_starts_without_torch() -> None:
    assert "torch" not in loaded_by("import quantize.__main__")

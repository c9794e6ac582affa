"""SDKs and frameworks, each in the version that its users install today."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.clients.conftest import RunProgram
from tests.clients.environments import PROGRAMS, node_folder, python_with
from tests.conftest import RunningServer


@pytest.mark.parametrize("version", ["2.54.0", "3.54.0"])
def test_openai_for_python(run_program: RunProgram, version: str) -> None:
    run_program([python_with(f"openai=={version}"), PROGRAMS / "openai_sdk.py", version])


@pytest.mark.parametrize(
    ("program", "packages"),
    [
        ("litellm_client.py", ["litellm==1.106.2", "mcp==2.3.0"]),
        (
            "llama_index_client.py",
            ["llama-index-llms-openai-like==0.8.1", "llama-index-embeddings-openai-like==0.4.0"],
        ),
        ("instructor_client.py", ["instructor==1.17.0"]),
        ("pydantic_ai_client.py", ["pydantic-ai-slim[openai]==2.68.0"]),
        ("agents_client.py", ["openai-agents==0.24.0"]),
    ],
)
def test_a_python_framework(run_program: RunProgram, program: str, packages: list[str]) -> None:
    run_program([python_with(*packages), PROGRAMS / program])


@pytest.mark.parametrize("program", ["openai_node.mjs", "vercel_ai.mjs"])
def test_a_node_sdk(run_program: RunProgram, program: str) -> None:
    folder = node_folder()
    shutil.copy(PROGRAMS / program, folder)
    run_program(["node", folder / program])


def test_langchains_standard_tests(run_program: RunProgram, tmp_path: Path) -> None:
    packages = ["langchain-openai==1.7.3", "langchain-tests==1.1.9", "pytest==9.2.0", "pytest-asyncio==1.5.0"]
    program = shutil.copy(PROGRAMS / "langchain_standard.py", tmp_path)
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nasyncio_mode=auto\n"
        "asyncio_default_test_loop_scope=session\nasyncio_default_fixture_loop_scope=session\n"
    )
    said = run_program([python_with(*packages), "-m", "pytest", program, "-q", "--durations=5"])
    passed = re.search(r"(\d+) passed", said)
    assert passed is not None
    assert int(passed.group(1)) >= 41, said


def test_the_llm_command(run_program: RunProgram, server: RunningServer, tmp_path: Path) -> None:
    llm: list[str | Path] = [
        python_with("llm==0.36"),
        "-m",
        "llm",
        "-m",
        "lantern",
        "--key",
        "any",
        "-o",
        "temperature",
        "0",
    ]
    models = (PROGRAMS / "llm_models.yaml").read_text("utf-8").replace("BASE_URL", server.base_url)
    (tmp_path / "extra-openai-models.yaml").write_text(models, "utf-8")
    streamed = run_program([*llm, "-o", "max_tokens", "8", "Say hello."])
    assert streamed.strip()
    assert run_program([*llm, "-o", "max_tokens", "8", "--no-stream", "Say hello."]) == streamed
    dog = json.loads(run_program([*llm, "-o", "max_tokens", "200", "--schema", "name, age int", "Describe a dog."]))
    assert isinstance(dog["age"], int)

"""Programs written for OpenAI's cloud, run unchanged against a real server; only where LANTERN_CLIENT_TESTS is set."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.conftest import RunningServer

RunProgram = Callable[[Sequence[str | Path]], str]

_TIMEOUT_S = 400.0  # of a program that hangs


@pytest.fixture(autouse=True)
def _asked_for(wants_clients: None) -> None:
    """Skip every test in this folder unless clients are wanted."""


@pytest.fixture
def run_program(server: RunningServer, tmp_path: Path) -> RunProgram:
    """Runs a command that finds the server in its environment; it has to succeed, and its output is the result."""
    return program_runner(server.base_url, tmp_path)


def program_runner(base_url: str, tmp_path: Path, **more: str) -> RunProgram:
    """Return a function that runs commands in a folder, with the server's address in their environment."""

    def run(command: Sequence[str | Path]) -> str:
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "LLM_USER_PATH": str(tmp_path),
            "BASE_URL": base_url,
            "ROOT_URL": base_url.removesuffix("/v1"),
            "CHAT_MODEL": "smollm2-135m-instruct",
            "EMBEDDING_MODEL": "all-minilm-l6-v2",
            "OPENAI_API_KEY": "any",
            "PYTHONDONTWRITEBYTECODE": "1",
            **more,
        }
        done = subprocess.run(
            [str(part) for part in command],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
        return done.stdout

    return run

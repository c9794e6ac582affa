"""schemathesis takes /openapi.json at its word: what it allows is taken, and what it forbids refused in shape."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.clients.conftest import RunProgram
from tests.clients.environments import PROGRAMS, python_with
from tests.conftest import RunningServer
from tests.server.openai_document import openai_document

_OURS = "^/(chat/completions|completions|embeddings|models)"
_CHECKS = "not_a_server_error,content_type_conformance,response_schema_conformance,response_headers_conformance"


@pytest.fixture
def schemathesis() -> Path:
    return python_with("schemathesis==4.32.5").with_name("schemathesis")


@pytest.fixture
def command(server: RunningServer, schemathesis: Path) -> list[str | Path]:
    url = f"{server.root_url}/openapi.json"
    return [schemathesis, "run", url, "--max-examples", "40", "--seed", "1", "--no-color", "--checks", "all"]


def test_what_the_document_allows_is_taken_and_what_it_forbids_is_refused(
    run_program: RunProgram, command: list[str | Path], tmp_path: Path
) -> None:
    shutil.copy(PROGRAMS / "comparable_counts.py", tmp_path)
    assert "passed" in run_program(["env", "SCHEMATHESIS_HOOKS=comparable_counts", *command])


def test_installed_models_answer_as_documented(
    run_program: RunProgram, command: list[str | Path], tmp_path: Path
) -> None:
    shutil.copy(PROGRAMS / "real_models.py", tmp_path)
    # What a document cannot say is refused too: tokens beyond the vocabulary, schemas that no grammar enforces.
    hooked = ["env", "SCHEMATHESIS_HOOKS=real_models", *command, "--exclude-checks", "positive_data_acceptance"]
    assert "passed" in run_program(hooked)


def test_answers_are_what_openai_itself_documents(
    run_program: RunProgram, server: RunningServer, schemathesis: Path, tmp_path: Path
) -> None:
    shutil.copy(PROGRAMS / "real_models.py", tmp_path)
    asked: list[str | Path] = [
        "run",
        openai_document(),
        "--url",
        server.base_url,
        "--include-path-regex",
        _OURS,
        "--checks",
        _CHECKS,
    ]
    bounds = ["--max-examples", "15", "--seed", "1", "--no-color"]
    assert "passed" in run_program(["env", "SCHEMATHESIS_HOOKS=real_models", schemathesis, *asked, *bounds])

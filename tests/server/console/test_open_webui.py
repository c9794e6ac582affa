"""Open WebUI itself, started with the settings that the connect view shows; LANTERN_OPEN_WEBUI=1 allows it.

Its packages take 1.7 GB and minutes, without torch, which it starts without. Its image for docker is not run.
"""

from __future__ import annotations

import itertools
import os
import shlex
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.server.console.driver import NO_PLAYWRIGHT

pytest.importorskip("playwright", reason=NO_PLAYWRIGHT)

from playwright.sync_api import expect

from tests.clients.environments import PROGRAMS, python_locked
from tests.conftest import RunningServer
from tests.server.console.aside import aside
from tests.server.console.conftest import OpenView
from tests.server.console.first_answer import first_answer
from tests.server.console.test_programs import program

START_S, ANSWER_S = 900, 300
MODEL = "smollm2-135m-instruct"


@pytest.fixture
def settings(open_view: OpenView, kept_server: RunningServer) -> dict[str, str]:
    """The variables of the command that the view shows."""
    page = open_view(kept_server, "connect")
    expect(page.get_by_role("region", name="curl").locator("code")).to_contain_text(MODEL)
    words = shlex.split(program(page, "Open WebUI").replace("\\\n", " "))
    assert words[:2] == ["docker", "run"]
    return dict(word.partition("=")[::2] for flag, word in itertools.pairwise(words) if flag == "-e")


@pytest.fixture
def open_webui(wants_clients: None, settings: dict[str, str], tmp_path: Path) -> Iterator[str]:
    """The address of an Open WebUI that was started with them."""
    if not os.environ.get("LANTERN_OPEN_WEBUI"):  # tests/README.md: too large for every run of the tests
        pytest.skip("set LANTERN_OPEN_WEBUI=1 to install and run Open WebUI: 1.7 GB, and minutes")
    python = aside(lambda: python_locked(PROGRAMS / "open_webui.txt"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "DATA_DIR": str(tmp_path), **settings}
    environment |= {"WEBUI_SECRET_KEY": "of-this-test", "HF_HUB_OFFLINE": "1", "ANONYMIZED_TELEMETRY": "false"}
    command: list[str | Path] = [python.with_name("open-webui"), "serve", "--host", "127.0.0.1", "--port", str(port)]
    log = tmp_path / "log.txt"
    with log.open("wb") as said, subprocess.Popen(command, stdout=said, stderr=said, env=environment) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            aside(lambda: first_answer(lambda: httpx2.get(f"{url}/health", timeout=10), process, log, within_s=START_S))
            yield url
        finally:
            process.terminate()
            aside(process.wait)


@pytest.mark.slow
def test_open_webui_lists_the_models_and_chats(open_webui: str) -> None:
    owner = {"name": "Anna", "email": "anna@example.com", "password": "a-Password-1-of-this-test"}
    with httpx2.Client(base_url=open_webui, timeout=ANSWER_S) as client:
        signed_up = client.post("/api/v1/auths/signup", json=owner)
        assert signed_up.status_code == 200, signed_up.text
        client.headers["authorization"] = f"Bearer {signed_up.json()['token']}"
        assert MODEL in {model["id"] for model in client.get("/api/models").json()["data"]}
        asked = {"model": MODEL, "messages": [{"role": "user", "content": "Say hello."}], "stream": False}
        answer = client.post("/api/chat/completions", json=asked)
        assert answer.status_code == 200, answer.text
        assert answer.json()["choices"][0]["message"]["content"].strip()

"""The connect view's programs, each run as the page shows it, and the playground."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest

from tests.server.console.driver import NO_PLAYWRIGHT

pytest.importorskip("playwright", reason=NO_PLAYWRIGHT)

from playwright.sync_api import Page, expect

from appliance.home import Home
from tests.clients.environments import PROGRAMS, node_folder, python_with, wheel_of
from tests.conftest import RunningServer, a_config, serving
from tests.server.console.aside import aside
from tests.server.console.conftest import ADMIN_KEY, OpenView

_TIMEOUT_S = 120.0


@pytest.fixture
def page(open_view: OpenView, kept_server: RunningServer) -> Page:
    page = open_view(kept_server, "connect")
    expect(page.get_by_role("region", name="curl").locator("code")).to_contain_text("smollm2-135m-instruct")
    return page


def program(page: Page, name: str) -> str:
    """Let a key be made, and return a program as it is shown then."""
    page.get_by_role("button", name="Make a key and put it in").click()
    expect(page.get_by_text(re.compile(r"The key program-\w+ is in the programs below"))).to_be_visible()
    text = page.get_by_role("region", name=name, exact=True).locator("pre").inner_text()
    assert "YOUR_KEY" not in text
    assert "MODEL" not in text
    return text


def output(*command: str | Path, cwd: Path, env: dict[str, str] | None = None) -> str:
    def run() -> str:
        words = [str(word) for word in command]
        done = subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return aside(run)


def test_the_program_in_python_runs_as_shown(page: Page, tmp_path: Path) -> None:
    assert output(sys.executable, "-c", program(page, "Python"), cwd=tmp_path).strip()


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
def test_the_command_with_curl_runs_as_shown(page: Page, tmp_path: Path) -> None:
    said = output("sh", "-c", program(page, "curl"), cwd=tmp_path)
    assert '"role": "assistant"' in said or '"role":"assistant"' in said


@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl here")
def test_over_https_the_programs_run_with_the_certificate_that_the_page_says_how_to_save(
    open_view: OpenView, kept_home: Home, tmp_path: Path
) -> None:
    settings = a_config(server={"keys": [ADMIN_KEY]}, tls={"enabled": True, "port": 0})
    with serving(settings, kept_home) as server:
        port = server.service.https_port
        secure = replace(server, base_url=f"https://localhost:{port}/v1")
        page = open_view(secure, "connect", ignore_https_errors=True)
        expect(page.get_by_role("region", name="curl").locator("code")).to_contain_text("smollm2-135m-instruct")
        fingerprint = output("sh", "-c", page.locator("pre", has_text="s_client").inner_text(), cwd=tmp_path)
        told = httpx2.get(f"{server.root_url}/identity").json()["certificate"]["fingerprint"]
        assert told in fingerprint
        assert '"role"' in output("sh", "-c", program(page, "curl"), cwd=tmp_path)
        environment = {**os.environ, "SSL_CERT_FILE": "lantern.pem"}
        assert "SSL_CERT_FILE=lantern.pem python" in page.get_by_role("region", name="Python", exact=True).inner_text()
        assert output(sys.executable, "-c", program(page, "Python"), cwd=tmp_path, env=environment).strip()


def test_the_program_for_node_runs_as_shown(wants_clients: None, page: Page) -> None:
    folder = aside(node_folder)
    path = folder / "as_shown.mjs"
    text = program(page, "Node")
    aside(lambda: path.write_text(text, "utf-8"))
    assert output("node", path, cwd=folder).strip()


def test_the_program_with_langchain_runs_as_shown(wants_clients: None, page: Page, tmp_path: Path) -> None:
    python = aside(lambda: python_with("langchain-openai==1.7.3"))
    assert output(python, "-c", program(page, "LangChain"), cwd=tmp_path).strip()


def test_what_open_webui_is_started_with_lets_it_list_the_models_and_chat(page: Page) -> None:
    words = shlex.split(program(page, "Open WebUI").replace("\\\n", " "))
    assert words[:2] == ["docker", "run"]
    settings = dict(word.partition("=")[::2] for flag, word in itertools.pairwise(words) if flag == "-e")
    assert settings.keys() == {"ENABLE_OLLAMA_API", "OPENAI_API_BASE_URL", "OPENAI_API_KEY"}
    headers = {"authorization": f"Bearer {settings['OPENAI_API_KEY']}"}
    listed = httpx2.get(f"{settings['OPENAI_API_BASE_URL']}/models", headers=headers).json()
    assert "smollm2-135m-instruct" in {model["id"] for model in listed["data"]}


def test_home_assistants_own_integration_takes_what_it_is_told_and_answers(
    wants_clients: None, page: Page, tmp_path: Path
) -> None:
    told = dict(line.split(": ", 1) for line in program(page, "Home Assistant").splitlines())
    wheel = aside(lambda: wheel_of("homeassistant", "2026.11.0", python="3.14.2"))
    python = aside(lambda: python_with("openai==3.26.0", "httpx2==2.14.0"))  # which that version asks for
    environment = {**os.environ, "TOLD": json.dumps(told)}
    said = output(python, PROGRAMS / "home_assistant.py", wheel, cwd=tmp_path, env=environment).split("\0")
    assert [bool(answer) for answer in said] == [True, True, False]  # streamed, whole, and the end


def test_texts_are_compared_and_lie_on_a_map(open_view: OpenView, kept_server: RunningServer) -> None:
    page = open_view(kept_server, "playground")
    page.get_by_label("Texts, one a line").fill("a cat\na kitten\nthe stock market\n\n")
    page.get_by_role("button", name="Compare").click()
    table = page.get_by_role("table", name="Similarity")
    expect(table.get_by_role("row")).to_have_count(4)
    first = table.get_by_role("row").nth(1).get_by_role("cell").all_inner_texts()
    assert first[:3] == ["1", "a cat", "1"]
    assert float(first[3]) > float(first[4])
    spots = page.locator("svg.map circle").evaluate_all(
        "all => all.map(c => [+c.getAttribute('cx'), +c.getAttribute('cy')])"
    )
    cat, kitten, market = spots
    assert math.dist(cat, kitten) < math.dist(cat, market)
    expect(page.get_by_text("No model of this kind is installed.")).to_be_visible()


def test_documents_are_shown_in_the_order_of_the_answer(open_view: OpenView, kept_server: RunningServer) -> None:
    page = open_view(kept_server, "chat")
    page.route("**/v1/models", lambda route: route.fulfill(json={"data": [{"id": "ranker", "kind": "reranker"}]}))
    results = [{"index": 1, "relevance_score": 0.9}, {"index": 0, "relevance_score": 0.25}]
    page.route("**/v1/rerank", lambda route: route.fulfill(json={"results": results}))
    page.get_by_role("link", name="Playground").click()
    page.get_by_label("Documents, one a line").fill("salt\nlamps")
    page.get_by_role("button", name="Rank").click()
    rows = page.get_by_role("table", name="Order").get_by_role("row")
    expect(rows.nth(1)).to_contain_text("0.9")
    expect(rows.nth(1)).to_contain_text("lamps")
    expect(rows.nth(2)).to_contain_text("salt")

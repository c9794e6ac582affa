"""Home Assistant itself, set up with what the connect view shows; LANTERN_HOME_ASSISTANT=1 allows it.

It needs a newer Python than ours, which a root of Debian's unstable has: 1 GB, and minutes. What runs of it in every
test is the integration's own code, in test_programs.py.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.server.console.driver import NO_PLAYWRIGHT

pytest.importorskip("playwright", reason=NO_PLAYWRIGHT)

from playwright.sync_api import expect

from tests.clients.environments import python_of_debian
from tests.conftest import RunningServer
from tests.server.console.aside import aside
from tests.server.console.conftest import OpenView
from tests.server.console.first_answer import first_answer
from tests.server.console.test_programs import program

VERSION = "2026.11.0"
START_S, ANSWER_S = 300, 120
MODEL = "smollm2-135m-instruct"
# Its packages are partly built from source.
PACKAGES = ("python3.14", "python3.14-dev", "python3.14-venv", "g++", "libc6-dev", "ca-certificates")
SETTINGS = """\
http:
  server_host: 127.0.0.1
  server_port: {port}
api:
config:
onboarding:
conversation:
"""
FLOW = "/api/config/config_entries/flow"


@pytest.fixture
def told(open_view: OpenView, kept_server: RunningServer) -> dict[str, str]:
    """Return the entries that the view shows."""
    page = open_view(kept_server, "connect")
    expect(page.get_by_role("region", name="curl").locator("code")).to_contain_text(MODEL)
    return dict(line.split(": ", 1) for line in program(page, "Home Assistant").splitlines())


@pytest.fixture
def home_assistant(wants_clients: None, told: dict[str, str], tmp_path: Path) -> Iterator[httpx2.Client]:
    """A client of a Home Assistant that was just installed, as its owner."""
    if not os.environ.get("LANTERN_HOME_ASSISTANT"):  # tests/README.md: too large for every run of the tests
        pytest.skip("set LANTERN_HOME_ASSISTANT=1 to install and run Home Assistant: 1 GB, and minutes")
    if os.geteuid() or not shutil.which("mmdebstrap"):  # which only root may run in, and only Debian has
        pytest.skip("a root of Debian's unstable needs root and mmdebstrap")
    root = aside(lambda: python_of_debian("python3.14", PACKAGES, f"homeassistant=={VERSION}"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (root / "settings").mkdir(exist_ok=True)
    (tmp_path / "configuration.yaml").write_text(SETTINGS.format(port=port), "utf-8")
    mounts = "mount -t proc proc proc; mount --rbind /dev dev; mount --bind $0 settings; exec chroot . $1 -c /settings"
    namespaces = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"]
    command = [*namespaces, "sh", "-euc", mounts, str(tmp_path), "/python/bin/hass"]
    environment = {"PATH": "/python/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
    environment["SSL_CERT_FILE"] = "/etc/ssl/certs/ca-certificates.crt"  # for its own installer
    log = tmp_path / "log.txt"
    with log.open("wb") as said, subprocess.Popen(command, stdout=said, stderr=said, env=environment, cwd=root) as run:
        try:
            with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=ANSWER_S) as client:
                aside(lambda: _onboard(client, run, log))
                yield client
        finally:
            run.kill()
            aside(run.wait)


def _onboard(client: httpx2.Client, process: subprocess.Popen[bytes], log: Path) -> None:
    """Make an owner, whose token the client has from then on."""
    url = str(client.base_url).rstrip("/")
    owner = {"client_id": f"{url}/", "name": "Anna", "username": "anna", "password": "a-Password-1", "language": "en"}
    made = first_answer(lambda: client.post("/api/onboarding/users", json=owner), process, log, within_s=START_S).json()
    code = {"grant_type": "authorization_code", "code": made["auth_code"], "client_id": f"{url}/"}
    client.headers["authorization"] = f"Bearer {client.post('/auth/token', data=code).json()['access_token']}"


def _enter(client: httpx2.Client, path: str, **entered: str) -> dict[str, Any]:
    answer = client.post(path, json=entered)
    assert answer.status_code == 200, answer.text
    form: dict[str, Any] = answer.json()
    assert not form.get("errors"), form
    return form


@pytest.mark.slow
def test_home_assistant_takes_what_the_view_says_suggests_a_model_that_chats_and_talks_to_it(
    home_assistant: httpx2.Client, told: dict[str, str]
) -> None:
    form = _enter(home_assistant, FLOW, handler="llama_cpp")
    form = _enter(home_assistant, f"{FLOW}/{form['flow_id']}", base_url=told["URL"], api_key=told["API key"])
    suggested = form["data_schema"][0]["description"]["suggested_value"]
    assert suggested == told["Model"]
    made = _enter(home_assistant, f"{FLOW}/{form['flow_id']}", chat_model=suggested)
    assert made["result"]["state"] == "loaded"

    states = home_assistant.get("/api/states").json()
    agents = {state["entity_id"] for state in states if state["entity_id"].startswith("conversation.")}
    (ours,) = agents - {"conversation.home_assistant"}
    asked = {"text": "What is the capital of France?", "agent_id": ours, "language": "en"}
    answer = home_assistant.post("/api/conversation/process", json=asked).json()["response"]
    assert answer["response_type"] == "action_done"
    assert "Paris" in answer["speech"]["plain"]["speech"]

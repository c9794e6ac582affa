"""The code of appliance/discovery/README.md, run as it stands there, against a real server on a test network."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from jinja2 import Environment

from appliance.home import Home
from tests.clients.environments import node_folder, python_with
from tests.conftest import RunningServer
from tests.lan import Lan, ip, open_lan
from tests.remote.waiting import wait_for

pytestmark = pytest.mark.usefixtures("wants_clients")

_README = Path(__file__).parents[2] / "appliance" / "discovery" / "README.md"
_OURS = ["aiohttp==3.14.5", "cryptography==50.0.2", "platformdirs==4.14.7", "psutil==7.2.2", "zeroconf==0.154.0"]


def recipe(heading: str) -> str:
    """The first block of code under a heading."""
    section = _README.read_text("utf-8").partition(f"\n## {heading}\n")[2]
    found = re.search(r"```\w+\n(.*?)```", section, re.DOTALL)
    assert found is not None
    return found.group(1)


@pytest.fixture(scope="module")
def home_lan(starter_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lan]:
    """An open server on machine `a`; recipes run on `b`."""
    with open_lan() as lan:
        lan.add(lan.a, "10.77.0.1/24")
        lan.add(lan.b, "10.77.0.2/24")
        for machine in lan.machines:  # as on any network with a router: Node's multicast follows the default route
            ip("-n", machine, "route", "add", "default", "via", "10.77.0.254")
        home = tmp_path_factory.mktemp("device")
        shutil.copytree(starter_home.trusted_keys, home / "keys" / "trusted")
        (home / "bundles").symlink_to(starter_home.bundles)
        log = home / "log"
        serve = ["serve", "--host", "0.0.0.0", "--announce", "--no-auth"]
        lan.start(lan.a, sys.executable, "-m", "appliance", *serve, log=log, LANTERN_HOME=str(home))
        wait_for(lambda: "announced" in log.read_text("utf-8").lower(), "the device is announced", log)
        yield lan


def run(lan: Lan, *command: str | Path, folder: Path, path: str = "") -> str:
    """Run on machine `b`; it has to succeed."""
    variables = {
        "PATH": f"{path}:{os.environ['PATH']}",
        "LANTERN_HOME": str(folder),
        "PYTHONPATH": str(_README.parents[2]),
    }
    inside = ["ip", "netns", "exec", lan.b, *map(str, command)]
    done = subprocess.run(
        inside, cwd=folder, capture_output=True, text=True, check=False, timeout=120, env=os.environ | variables
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_python(home_lan: Lan, tmp_path: Path) -> None:
    assert run(home_lan, sys.executable, "-c", recipe("Python"), folder=tmp_path).strip()


def test_langchain(home_lan: Lan, tmp_path: Path) -> None:
    python = python_with("langchain-openai==1.7.3", *_OURS)
    assert run(home_lan, python, "-c", recipe("LangChain"), folder=tmp_path).strip()


def test_any_program_that_takes_a_base_url(home_lan: Lan, tmp_path: Path) -> None:
    said = run(home_lan, "sh", "-ec", recipe("Any program that takes a base URL"), folder=tmp_path, path=_bin())
    assert '"all-minilm-l6-v2"' in said


def test_node(home_lan: Lan, tmp_path: Path) -> None:
    folder = node_folder()
    (folder / "recipe.mjs").write_text(recipe("Node"), "utf-8")
    said = run(home_lan, "node", folder / "recipe.mjs", folder=tmp_path)
    assert {"smollm2-135m-instruct", "all-minilm-l6-v2"} <= set(said.split())


def test_home_assistant(server: RunningServer) -> None:
    """Its payload is a template of Jinja, rendered as Home Assistant does."""
    template = re.search(r"payload: '(.*)'", recipe("Home Assistant"))
    assert template is not None
    body = Environment(autoescape=False).from_string(template.group(1)).render(text='Say "hello" & stop\n')
    headers = {"Content-Type": "application/json"}
    answer = httpx2.post(f"{server.base_url}/chat/completions", content=body, headers=headers, timeout=120)
    assert answer.json()["choices"][0]["message"]["content"]


def _bin() -> str:
    return str(Path(sys.executable).parent)

"""The configurations of `lantern discover --format`, read by the programs that they are for."""

from __future__ import annotations

import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest

from appliance.cli.formats import FORMATS
from appliance.discovery import Device, ServiceRecord
from appliance.remote.probe import Probe
from tests.clients.environments import python_with
from tests.conftest import RunningServer
from tests.debian import program

pytestmark = pytest.mark.clients

_MODELS = ("smollm2-135m-instruct", "all-minilm-l6-v2")
_LITELLM_PROGRAM = """\
import sys, yaml
from litellm import Router
router = Router(**yaml.safe_load(sys.stdin))
answer = router.completion(model="smollm2-135m-instruct", messages=[{"role": "user", "content": "Hi"}], max_tokens=4)
vector = router.embedding(model="all-minilm-l6-v2", input=["light"])
print(answer.usage.completion_tokens, len(vector.data[0]["embedding"]))
"""


def configuration(form: str, server: RunningServer) -> str:
    """Return the configuration for this server, found beside one that is switched off."""
    port = urlsplit(server.base_url).port or 0
    running = Device("kitchen", "lantern-a.local.", port, ("127.0.0.1",), ServiceRecord("a" * 16), {})
    off = Device("bath", "lantern-b.local.", 1, ("::1",), ServiceRecord("b" * 16), {})
    probes = {running.base_url: Probe("ok", _MODELS), off.base_url: Probe("no answer")}
    return FORMATS[form]([running, off], probes)


def run(*command: str | Path, text: str = "", **variables: str) -> str:
    done = subprocess.run(
        [str(word) for word in command],
        input=text,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/nonexistent", **variables},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_litellm_talks_to_the_device(server: RunningServer) -> None:
    python = python_with("litellm==1.106.2", "mcp==2.3.0")
    text = configuration("litellm", server)
    said = run(python, "-c", _LITELLM_PROGRAM, text=text, LANTERN_API_KEY="any", LITELLM_LOCAL_MODEL_COST_MAP="True")
    assert said.split()[-2:] == ["4", "384"]


def test_prometheus_takes_the_targets(server: RunningServer, tmp_path: Path) -> None:
    (tmp_path / "targets.json").write_text(configuration("prometheus", server), "utf-8")
    job = f"- job_name: lantern\n  file_sd_configs:\n  - files: [{tmp_path}/targets.json]\n"
    (tmp_path / "prometheus.yml").write_text(f"scrape_configs:\n{job}", "utf-8")
    said = run(program("prometheus", "usr/bin/promtool"), "check", "config", tmp_path / "prometheus.yml")
    assert "SUCCESS" in said


def test_what_prometheus_would_read_is_sound(server: RunningServer) -> None:
    page = httpx2.get(f"{server.root_url}/metrics").text
    run(program("prometheus", "usr/bin/promtool"), "check", "metrics", text=page)


def test_caddy_balances_over_the_devices_that_are_there(server: RunningServer, tmp_path: Path) -> None:
    caddy = program("caddy", "usr/bin/caddy")
    text = configuration("caddy", server).replace(":8000", "{\n\tadmin off\n}\nhttp://127.0.0.1:18000", 1)
    (tmp_path / "Caddyfile").write_text(text, "utf-8")
    command = [str(caddy), "run", "--config", str(tmp_path / "Caddyfile"), "--adapter", "caddyfile"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={"HOME": str(tmp_path)}) as process:
        try:
            assert process.stderr is not None
            assert any("serving initial configuration" in line for line in process.stderr)
            answers = {httpx2.get("http://127.0.0.1:18000/v1/models", timeout=30).status_code for _ in range(6)}
            assert answers == {200}
        finally:
            process.terminate()


def test_a_shell_takes_the_environment(server: RunningServer) -> None:
    said = run("sh", "-c", 'eval "$(cat)"; printf %s "$OPENAI_BASE_URL"', text=configuration("env", server))
    assert said == server.base_url

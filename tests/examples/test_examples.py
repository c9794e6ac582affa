"""The programs in examples/, run as a newcomer runs them, against a real server with the starter models."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from appliance.home import Home
from appliance.identity.certificate import pin_of
from tests.conftest import RunningServer, a_config, serving
from tests.lan import Lan, ipv4_lan, lan
from tests.remote.waiting import wait_for
from tests.server.admin.clients import Administrator

__all__ = ["ipv4_lan", "lan"]

pytestmark = pytest.mark.models

_ROOT = Path(__file__).parents[2]
_EXAMPLES = _ROOT / "examples"
_KEY = "sk-lantern-for-the-examples"
_NAME = "smollm2-135m-instruct"


def run(*command: str | Path, expect: int = 0, **variables: str) -> str:
    """Run a command and return what it prints on both channels."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(_ROOT), **variables}
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, timeout=120, env=environment
    )
    said = done.stdout + done.stderr
    assert done.returncode == expect, said
    return said


def run_python(name: str, server: RunningServer) -> str:
    """Run an example against the shared server."""
    return run(sys.executable, _EXAMPLES / name, OPENAI_BASE_URL=server.base_url)


def test_every_example_is_run_by_a_test_and_named_on_the_page() -> None:
    names = {path.name for path in _EXAMPLES.iterdir() if path.suffix in {".py", ".sh"}}
    tests = Path(__file__).read_text("utf-8")
    page = (_EXAMPLES / "README.md").read_text("utf-8")
    assert {name for name in names if f'"{name}"' not in tests} == set()
    assert set(re.findall(r"\]\((\w+\.(?:py|sh))\)", page)) == names


def test_the_sdk_example_of_the_readme_runs_as_it_stands(server: RunningServer) -> None:
    page = (_ROOT / "README.md").read_text("utf-8")
    blocks = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "base_url" in block]
    assert len(blocks) == 1
    default = "http://127.0.0.1:8080/v1"
    assert default in blocks[0]
    answer, dimensions = run(sys.executable, "-c", blocks[0].replace(default, server.base_url)).strip().rsplit("\n", 1)
    assert answer.strip()
    assert dimensions == "384"


def test_the_verifier_of_the_bundle_format_accepts_a_bundle_and_refuses_a_changed_one(
    starter_home: Home, tmp_path: Path
) -> None:
    page = (_ROOT / "docs/bundle-format.md").read_text("utf-8")
    [program] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    bundle = starter_home.bundles / "all-minilm-l6-v2" / "active"
    [key] = starter_home.trusted_keys.glob("*.pub")
    said = run(sys.executable, "-c", program, bundle, key)
    assert said == f"all-minilm-l6-v2 {bundle.readlink().name}\n"
    changed = tmp_path / "changed"
    shutil.copytree(bundle, changed)
    (changed / "LICENSE").write_bytes((changed / "LICENSE").read_bytes().replace(b"2.0", b"3.0", 1))
    assert "AssertionError" in run(sys.executable, "-c", program, changed, key, expect=1)
    manifest = (changed / "manifest.json").read_bytes()
    (changed / "manifest.json").write_bytes(manifest.replace(b"MiniLM", b"minilm", 1) + b" ")
    assert "InvalidSignature" in run(sys.executable, "-c", program, changed, key, expect=1)


def test_chat_answers_both_turns_and_reuses_the_first(server: RunningServer) -> None:
    said = run_python("chat.py", server)
    assert "Paris" in said
    counts = [int(count) for count in re.findall(r"\((\d+) prompt tokens came from the prefix cache\)", said)]
    assert len(counts) == 2
    assert counts[1] > 20


def test_stream_prints_text_and_counts_that_fit_it(server: RunningServer) -> None:
    text, counts = run_python("stream.py", server).strip().rsplit("\n", 1)
    num_completion = int(re.findall(r"(\d+) completion tokens", counts)[0])
    assert 1 <= num_completion <= 80
    assert len(text.split()) > num_completion / 4


def test_structured_prints_an_order_of_the_asked_shape(server: RunningServer) -> None:
    order = json.loads(run_python("structured.py", server))
    assert order.keys() == {"customer", "product", "quantity", "delivery"}
    assert (order["customer"], order["quantity"], order["delivery"]) == ("Mary", 12, "post")


def test_tools_calls_the_function_and_tells_its_result(server: RunningServer) -> None:
    call, answer = run_python("tools.py", server).strip().split("\n", 1)
    assert call.startswith('read_temperature({"room": "kitchen"}) -> ')
    assert "21.5" in answer


def test_embed_finds_the_note_that_means_the_same(server: RunningServer) -> None:
    lines = run_python("embed.py", server).splitlines()
    assert "boiler" in lines[1]
    scores = [float(line.split()[0]) for line in lines[1:]]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.netns
def test_find_a_device_lists_it_remembers_it_and_asks_it(ipv4_lan: Lan, starter_home: Home, tmp_path: Path) -> None:
    device, log = tmp_path / "device", tmp_path / "log"
    shutil.copytree(starter_home.trusted_keys, device / "keys" / "trusted")
    (device / "bundles").symlink_to(starter_home.bundles)
    serve = ["serve", "--host", "0.0.0.0", "--announce", "--name", "kitchen", "--preload", _NAME]
    settings = {"LANTERN_TLS_ENABLED": "true", "LANTERN_SERVER_KEYS": json.dumps([_KEY])}
    command = (sys.executable, "-m", "appliance", *serve)
    ipv4_lan.start(ipv4_lan.a, *command, log=log, LANTERN_HOME=str(device), **settings)
    wait_for(lambda: "announced" in log.read_text("utf-8").lower(), "the device is announced", log)
    program = ("ip", "netns", "exec", ipv4_lan.b, sys.executable, _EXAMPLES / "find_a_device.py", "kitchen")
    client = tmp_path / "client"
    said = run(*program, LANTERN_HOME=str(client), LANTERN_API_KEY=_KEY)
    listed, answer = said.strip().split("\n", 1)
    assert re.fullmatch(r"kitchen +http://10\.77\.0\.1:8080/v1 +ready, 2 models", listed)
    assert "Paris" in answer
    assert pin_of(device / "keys" / "tls.pem") in (client / "known_devices").read_text("utf-8")


def test_install_by_http_resumes_installs_and_compares_the_pin(starter_home: Home, tmp_path: Path) -> None:
    if not (shutil.which("curl") and shutil.which("jq")):
        pytest.skip("curl and jq are not installed")
    script, bundle = _EXAMPLES / "install_by_http.sh", starter_home.bundles / _NAME / "active"
    device = Home(tmp_path / "device")
    shutil.copytree(starter_home.trusted_keys, device.trusted_keys)
    config = a_config(server={"keys": [_KEY]}, tls={"enabled": True, "port": 0})
    with serving(config, device) as server:
        url = f"https://127.0.0.1:{server.service.https_port}"
        wrong = run(script, bundle, url, "sha256//" + "A" * 43 + "=", expect=90, LANTERN_API_KEY=_KEY)
        assert "public key does not match pinned public key" in wrong
        administrator = Administrator(server, _KEY)
        upload_id = administrator.begin(bundle).json()["id"]
        size = (bundle / "tokenizer.json").stat().st_size
        head = (bundle / "tokenizer.json").read_bytes()[:1000]
        administrator.put(upload_id, "tokenizer.json", head, content_range=f"bytes 0-999/{size}")
        first = run(script, bundle, url, pin_of(device.tls), LANTERN_API_KEY=_KEY)
        assert f"tokenizer.json: bytes 1000 to {size - 1} of {size}\n" in first
        assert first.count("model.onnx.data: bytes ") == 3  # 100 MB in pieces of 32 MiB
        assert first.endswith(f"Installed: {_NAME}\n")
        again = run(script, bundle, server.root_url, LANTERN_API_KEY=_KEY)
        assert again == "This bundle is installed already.\n"
        answer = run(sys.executable, _EXAMPLES / "chat.py", OPENAI_BASE_URL=server.base_url, LANTERN_API_KEY=_KEY)
        assert "Paris" in answer

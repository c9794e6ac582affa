"""A server that is stopped leaves the network's lists first, and its port last."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from appliance.home import Home
from tests.lan import Lan

_URL = "http://10.77.0.1:8080"
_SCHEMA = {"type": "object", "properties": {"story": {"type": "string", "minLength": 6000}}, "required": ["story"]}
_LONG = {
    "model": "smollm2-135m-instruct",
    "messages": [{"role": "user", "content": "Tell me a very long story."}],
    "response_format": {"type": "json_schema", "json_schema": {"name": "story", "schema": _SCHEMA}},
    "stream": True,
}


def on_b(lan: Lan, *command: str) -> list[str]:
    return ["ip", "netns", "exec", lan.b, *command]


def test_the_goodbye_comes_while_the_port_still_answers(ipv4_lan: Lan, starter_home: Home, tmp_path: Path) -> None:
    home = Home(tmp_path / "device")
    shutil.copytree(starter_home.trusted_keys, home.trusted_keys)
    home.bundles.symlink_to(starter_home.bundles)
    home.cache.symlink_to(starter_home.cache)
    watcher = ipv4_lan.node(ipv4_lan.b, "watch")
    serve = (sys.executable, "-m", "appliance", "serve", "--host", "0.0.0.0", "--announce", "--no-auth")
    server = ipv4_lan.start(ipv4_lan.a, *serve, log=tmp_path / "log", LANTERN_HOME=str(home.root))
    watcher.devices(lambda found: [d["state"] for d in found] == ["ready"], timeout_s=120.0)
    asking = on_b(
        ipv4_lan, "curl", "--silent", "--no-buffer", "--json", json.dumps(_LONG), f"{_URL}/v1/chat/completions"
    )
    with subprocess.Popen(asking, stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        assert client.stdout.readline().startswith(b"data: ")
        server.terminate()
        watcher.devices(lambda found: not found)
        health = on_b(ipv4_lan, "curl", "--silent", "--max-time", "60", f"{_URL}/health")
        told = subprocess.run(health, capture_output=True, text=True, check=True).stdout
        assert client.poll() is None
        client.terminate()
    assert json.loads(told)["status"] == "draining"
    assert server.wait(60) == 0

"""The appliance as it is on a board, with its arm64 libraries, under qemu-user: it answers a real chat request.

A minute instead of the many of a boot. The tree is what `make image` leaves in its cache, Debian with the package, or
else both unpacked without running anything of them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import OpenAI

from appliance.home import Home
from tests.arm.tree import Tree, lacking, package_tree
from tests.images.boots.board import free_port
from tests.images.trees import missing

_PROCESSORS = ("cortex-a72", "cortex-a76")  # of a Raspberry Pi 4 and 5: without and with dot products
_TIMEOUT_S = 900.0
_CHAT = "smollm2-135m-instruct"
_SENTENCE = "The sky is blue and the grass is green"
_WORDS = "grass The and sky is green blue the is"


_REASON = missing() or lacking()
pytestmark = pytest.mark.skipif(_REASON is not None, reason=str(_REASON))


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    folder = tmp_path_factory.mktemp("arm64")
    yield package_tree(folder)
    shutil.rmtree(folder)


@pytest.fixture(scope="module", params=_PROCESSORS)
def base_url(
    request: pytest.FixtureRequest, tree: Tree, starter_home: Home, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A server of the other processor, with models that it has never seen."""
    home = tmp_path_factory.mktemp("home")
    (home / "bundles").symlink_to(starter_home.bundles)
    (home / "keys").mkdir(mode=0o700)
    (home / "keys/trusted").symlink_to(starter_home.trusted_keys)
    port = free_port()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("LANTERN_", "PYTHON"))},
        "LANTERN_HOME": str(home),
        "LANTERN_SERVER_MAX_WAIT_S": "600",
        "QEMU_CPU": str(request.param),
    }
    command = tree.python(str(request.param), "-m", "appliance", "serve", "--port", str(port))
    command += ["--threads", "2", "--slots", "1", "--context-length", "256"]
    log = home / "log"
    with log.open("wb") as file:
        server = subprocess.Popen(command, cwd="/", env=environment, stdout=file, stderr=file)
    try:
        wait_for(f"http://127.0.0.1:{port}/health", server, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.kill()
        server.wait(30)


def wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    end_s = time.monotonic() + _TIMEOUT_S
    while True:
        assert server.poll() is None, log.read_text("utf-8", "replace")[-3000:]
        assert time.monotonic() < end_s, log.read_text("utf-8", "replace")[-3000:]
        try:
            with urllib.request.urlopen(url, timeout=10):
                return
        except OSError:
            time.sleep(0.5)


def test_it_answers_a_chat_request(base_url: str) -> None:
    with OpenAI(base_url=base_url, api_key="any", timeout=_TIMEOUT_S, max_retries=0) as client:
        answer = client.chat.completions.create(
            model=_CHAT,
            messages=[{"role": "user", "content": "What is the capital of France?"}],
            max_tokens=8,
            temperature=0,
        )
        likely, unlikely = (log_likelihood(client, text) for text in (_SENTENCE, _WORDS))
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 8 or answer.choices[0].finish_reason == "stop"
    assert likely > unlikely + 10  # whatever this model says, on this processor too it knows a sentence from its words


def log_likelihood(client: OpenAI, text: str) -> float:
    """Of a text's tokens after its first one, in nats."""
    scored = (
        client.completions.create(model=_CHAT, prompt=text, max_tokens=0, echo=True, logprobs=0).choices[0].logprobs
    )
    assert scored is not None
    return sum(value for value in scored.token_logprobs or [] if value is not None)


def test_it_embeds(base_url: str) -> None:
    with OpenAI(base_url=base_url, api_key="any", timeout=_TIMEOUT_S, max_retries=0) as client:
        vectors = client.embeddings.create(model="all-minilm-l6-v2", input=["a dog", "a puppy", "a tax return"]).data
    dog, puppy, tax = (v.embedding for v in vectors)
    assert sum(map(float.__mul__, dog, puppy)) > sum(map(float.__mul__, dog, tax)) + 0.2

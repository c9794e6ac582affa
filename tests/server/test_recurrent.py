"""A model with recurrent layers behind the API: what its clients do not wait for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from tokenizers import Tokenizer as FastTokenizer

from appliance.bundle import BundleStore, Manifest, SigningKey, TrustedKeys
from appliance.bundle.folder import describe_files, write_bundle
from appliance.bundle.manifest import Source
from appliance.home import Home
from tests.bundle.workshop import install_untried
from tests.conftest import RunningServer, a_config, serving
from tests.engine.hybrid import SPEC, hybrid_graph
from tests.quantize.tiny import TEMPLATE
from tests.text.conftest import byte_level_tokenizer

pytestmark = pytest.mark.slow

NAME = "hybrid"
RULES = "The lantern stands on the shelf and waits for a question, and she sells sea shells by the shore. " * 9


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    home = Home(tmp_path_factory.mktemp("recurrent"))
    install(home, home.root / "made")
    config = a_config(engine={"slots": 2, "threads": 1, "context_length": 1024}, models={"preload": [NAME]})
    with serving(config, home) as running:
        yield running


def install(
    home: Home, folder: Path, *, name: str = NAME, template: str = TEMPLATE, tokenizer: FastTokenizer | None = None
) -> None:
    """Install the hybrid under a name, with a template and a tokenizer of at most 512 tokens."""
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(hybrid_graph())
    (folder / "tokenizer.json").write_text((tokenizer or byte_level_tokenizer()).to_str(), "utf-8")
    (folder / "chat_template.jinja").write_text(template, "utf-8")
    key, trusted = SigningKey.load_or_create(home.signing_key), TrustedKeys.load(home.trusted_keys)
    trusted.add(key.public)
    names = ["model.onnx", "tokenizer.json", "chat_template.jinja"]
    manifest = Manifest(
        name=name, model=SPEC, files=describe_files(folder, names), license="MIT", source=Source(uri="here")
    )
    write_bundle(folder, manifest, key)
    install_untried(BundleStore(home.bundles, trusted), folder)


def num_read(server: RunningServer, question: str, **more: object) -> int:
    """Ask a question under the same rules; return the tokens of the prompt that were read."""
    messages = [{"role": "system", "content": RULES}, {"role": "user", "content": question}]
    body = {"model": NAME, "messages": messages, "max_tokens": 4, "temperature": 0, **more}
    answer = httpx2.post(f"{server.base_url}/chat/completions", json=body, timeout=60.0)
    assert answer.status_code == 200, answer.text
    usage = answer.json()["usage"]
    read: int = usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"]
    return read


def test_a_second_question_under_the_same_rules_is_read_alone(server: RunningServer) -> None:
    first = num_read(server, "What is on the shelf, and who waits there for a question?")
    second = num_read(server, "How many sea shells did she sell at the shore?")
    assert first > 250, second
    assert second < 80
    assert num_read(server, "How many did she sell, if any?") < 60

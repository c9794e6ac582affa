from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import openai
import pytest
from openai import OpenAI

from appliance.home import Home
from tests.conftest import RunningServer, a_config, serving

MODEL = "all-minilm-l6-v2"
TEXTS = ["The cat sat on the mat.", "A kitten rests on a rug.", "Quarterly revenue fell by nine percent.", "x"]


@pytest.fixture
def client(server: RunningServer) -> Any:
    with OpenAI(base_url=server.base_url, api_key="any", max_retries=0) as client:
        yield client


def vectors(client: OpenAI, texts: Any, **arguments: Any) -> np.ndarray:
    response = client.embeddings.create(model=MODEL, input=texts, **arguments)
    assert [d.index for d in response.data] == list(range(len(response.data)))
    return np.array([d.embedding for d in response.data])


def test_similar_texts_are_near(client: OpenAI) -> None:
    v = vectors(client, TEXTS)
    assert v.shape == (4, 384)
    assert np.linalg.norm(v, axis=1) == pytest.approx(1, abs=1e-5)
    assert v[0] @ v[1] > v[0] @ v[2] + 0.3


def test_a_vector_does_not_depend_on_its_batch(client: OpenAI) -> None:
    long = "many more words than the others have " * 20
    together = vectors(client, [*TEXTS, long])
    for i, text in enumerate([*TEXTS, long]):
        np.testing.assert_allclose(vectors(client, text)[0], together[i], atol=2e-6)


def test_floats_and_the_base64_that_the_sdk_asks_for_are_the_same_numbers(client: OpenAI) -> None:
    np.testing.assert_allclose(vectors(client, TEXTS, encoding_format="float"), vectors(client, TEXTS), atol=1e-7)


def test_raw_base64_is_little_endian_float32(server: RunningServer) -> None:
    body = {"model": MODEL, "input": "hi", "encoding_format": "base64"}
    data = httpx2.post(f"{server.base_url}/embeddings", json=body).json()["data"][0]["embedding"]
    assert np.linalg.norm(np.frombuffer(base64.b64decode(data), "<f4")) == pytest.approx(1, abs=1e-5)


def test_a_null_encoding_format_counts_as_absent(server: RunningServer) -> None:
    body = {"model": MODEL, "input": "hi", "encoding_format": None, "dimensions": None}
    embedding = httpx2.post(f"{server.base_url}/embeddings", json=body).json()["data"][0]["embedding"]
    assert isinstance(embedding, list)


def test_tokens_are_those_of_openai_and_as_good_as_their_text(starter_home: Home, tmp_path: Path) -> None:
    words = [b"the", b" fox", b" caf\xc3", b"\xa9", b"!"]
    table = tmp_path / "cl100k_base.tiktoken"
    table.write_bytes(b"".join(base64.b64encode(word) + b" %d\n" % i for i, word in enumerate(words)))
    with (
        serving(a_config(embeddings={"token_table": str(table)}), starter_home) as server,
        OpenAI(base_url=server.base_url, api_key="any", max_retries=0) as client,
    ):
        for tokens, text in (([0, 1, 2, 3, 4], "the fox café!"), ([0, 100257], "the<|endoftext|>")):
            np.testing.assert_allclose(vectors(client, tokens), vectors(client, text), atol=1e-6)
            np.testing.assert_allclose(vectors(client, [tokens]), vectors(client, text), atol=1e-6)
        with pytest.raises(openai.BadRequestError, match="no token of cl100k_base") as caught:
            vectors(client, [[0], [5]])
        assert caught.value.param == "input[1]"


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"token_ids": "refuse"}, "texts only"), ({"token_table": "/nowhere/cl100k_base"}, "embeddings.token_table")],
)
def test_tokens_that_cannot_be_read_are_refused_and_texts_are_not(
    starter_home: Home, settings: dict[str, object], said: str
) -> None:
    with (
        serving(a_config(embeddings=settings), starter_home) as server,
        OpenAI(base_url=server.base_url, api_key="any", max_retries=0) as client,
    ):
        with pytest.raises(openai.BadRequestError, match=said) as caught:
            vectors(client, [101, 7592])
        assert caught.value.param == "input"
        assert len(vectors(client, "hello")) == 1


def test_tokens_of_the_model_are_taken_as_they_are_where_that_is_set(starter_home: Home) -> None:
    tokens = [101, 7592, 102]
    with (
        serving(a_config(embeddings={"token_ids": "own"}), starter_home) as server,
        OpenAI(base_url=server.base_url, api_key="any", max_retries=0) as client,
    ):
        np.testing.assert_allclose(vectors(client, tokens), vectors(client, [tokens]), atol=1e-7)
        np.testing.assert_allclose(vectors(client, tokens), vectors(client, "hello"), atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": [[]]}, "input[0]"),
        ({"input": [10**7]}, "input"),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": "a", "dimensions": 128}, "dimensions"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
        ({"input": 5}, "input"),
        ({"input": "word " * 1000}, "input"),
    ],
)
def test_bad_input_names_its_field(client: OpenAI, arguments: Any, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model=MODEL, **arguments)
    assert caught.value.param == param


def test_a_long_text_is_cut_when_asked(server: RunningServer) -> None:
    body = {"model": MODEL, "input": "word " * 1000, "truncate": True}
    assert httpx2.post(f"{server.base_url}/embeddings", json=body).status_code == 200


def test_models_of_the_wrong_kind_are_refused_by_name(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="makes embeddings; this needs one that generates text"):
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "hi"}])
    with pytest.raises(openai.BadRequestError, match="generates text; this needs one that makes embeddings"):
        client.embeddings.create(model="smollm2-135m-instruct", input="hi")

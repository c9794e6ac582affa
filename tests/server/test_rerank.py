"""Ranking documents over HTTP, with a cross-encoder of random weights that is built here."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import httpx2
import numpy as np
import pytest

from appliance.bundle import RerankerSpec, RerankPrompt
from appliance.bundle.manifest import MODEL_NAME
from appliance.engine.runtime.model_file import ModelFile
from appliance.engine.texts.embedder import Reranker
from appliance.errors import ContextLengthError
from appliance.home import Home
from appliance.models import RerankModel
from appliance.server.app import ROUTES
from appliance.server.openapi import document
from appliance.server.v1.rerank import RankedResult, RerankRequest, RerankResponse, encode_pairs
from appliance.text.tokenizer import Tokenizer
from quantize.build import build_into_store
from quantize.evaluation.reranker import encoded_pairs
from quantize.progress import StageProgress
from quantize.recipe import Recipe
from tests.conftest import RunningServer, a_config, serving
from tests.quantize.tiny import FORCED, write_encoder, write_reranker, write_tokenizer
from tests.server.answers import read_answer

_QUERY = "the quick brown fox"
_DOCUMENTS = ["dog", "the lazy dog sleeps and then it jumps over", "fox", "quick " * 30]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    root = tmp_path_factory.mktemp("rerank")
    home = Home(root / "home")
    with StageProgress() as progress:
        for name, write in (("tiny-reranker", write_reranker), ("tiny-encoder", write_encoder)):
            recipe = Recipe.create(name=name, source={"uri": str(write(root / name))})
            build_into_store(recipe, home, progress, FORCED)
    return home


@pytest.fixture(scope="module")
def ranking(home: Home) -> Iterator[RunningServer]:
    with serving(a_config(), home) as server:
        yield server


def rerank(server: RunningServer, **fields: Any) -> httpx2.Response:
    body = {"model": "tiny-reranker", "query": _QUERY, "documents": _DOCUMENTS, **fields}
    return httpx2.post(f"{server.base_url}/rerank", json=body, timeout=60)


def results(server: RunningServer, **fields: Any) -> list[RankedResult]:
    response = rerank(server, **fields)
    assert response.status_code == 200, response.text
    return read_answer(RerankResponse, response.text)["results"]


def test_every_document_is_scored_and_the_most_relevant_comes_first(ranking: RunningServer) -> None:
    found = results(ranking)
    assert sorted(result["index"] for result in found) == [0, 1, 2, 3]
    scores = [result["relevance_score"] for result in found]
    assert scores == sorted(scores, reverse=True)
    assert all(0 < score < 1 for score in scores)
    assert len(set(scores)) == 4


def test_scores_are_those_of_the_model(ranking: RunningServer, home: Home) -> None:
    folder = (home.bundles / "tiny-reranker" / "active").resolve()
    pairs = encoded_pairs(
        folder, [(_QUERY, text) for text in _DOCUMENTS], RerankerSpec(architecture="bert", max_tokens=128)
    )
    logits = Reranker(ModelFile(folder / MODEL_NAME), num_threads=1).score(pairs)
    raw = {result["index"]: result["relevance_score"] for result in results(ranking, raw_scores=True)}
    np.testing.assert_allclose([raw[i] for i in range(4)], logits, atol=1e-5)
    scored = {result["index"]: result["relevance_score"] for result in results(ranking)}
    assert scored[2] == pytest.approx(1 / (1 + math.exp(-raw[2])), abs=1e-6)


def test_a_score_does_not_depend_on_the_other_documents(ranking: RunningServer) -> None:
    together = {result["index"]: result["relevance_score"] for result in results(ranking)}
    for i, text in enumerate(_DOCUMENTS):
        (alone,) = results(ranking, documents=[text])
        assert alone["relevance_score"] == pytest.approx(together[i], abs=1e-6)


def test_top_n_and_the_documents_come_back_where_asked(ranking: RunningServer) -> None:
    documents = [{"text": text, "title": "ignored"} for text in _DOCUMENTS]
    found = results(ranking, documents=documents, top_n=2, return_documents=True)
    assert len(found) == 2
    assert found == results(ranking, return_documents=True)[:2]
    assert all(result["document"]["text"] == _DOCUMENTS[result["index"]] for result in found)
    assert len(results(ranking, top_n=50)) == 4


def test_usage_counts_the_tokens_of_every_pair(ranking: RunningServer) -> None:
    one = rerank(ranking, documents=["fox"]).json()["usage"]
    two = rerank(ranking, documents=["fox", "fox"]).json()["usage"]
    assert one["total_tokens"] == one["prompt_tokens"] > 3
    assert two["total_tokens"] == 2 * one["total_tokens"]


def test_a_long_document_is_cut_unless_told_not_to(ranking: RunningServer) -> None:
    long = "fox " * 5000
    assert rerank(ranking, documents=[long]).json()["usage"]["total_tokens"] == 128
    assert rerank(ranking, documents=["fox"], truncate=False).status_code == 200
    refused = rerank(ranking, documents=["fox", long], truncate=False)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "documents[1]"
    assert refused.json()["error"]["code"] == "context_length_exceeded"
    short = rerank(ranking, documents=[long], max_tokens_per_doc=5).json()["usage"]["total_tokens"]
    assert short < 40


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"query": ""}, "query"),
        ({"query": "fox " * 400}, "query"),
        ({"query": None}, "query"),
        ({"documents": []}, "documents"),
        ({"documents": ["a"] * 1001}, "documents"),
        ({"documents": ["a", 5]}, "documents[1]"),
        ({"documents": [{"title": "a"}]}, "documents[0].text"),
        ({"documents": "a"}, "documents"),
        ({"top_n": 0}, "top_n"),
        ({"return_documents": "yes"}, "return_documents"),
        ({"model": "tiny-encoder"}, "model"),
        ({"instruction": "Find what answers."}, "instruction"),
    ],
)
def test_a_bad_field_is_named(ranking: RunningServer, fields: dict[str, Any], param: str) -> None:
    response = rerank(ranking, **fields)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param


def test_a_model_with_a_prompt_reads_the_instruction_and_cuts_the_document(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    tokenizer = Tokenizer.from_file(tmp_path / "tokenizer.json")
    prompt = RerankPrompt(
        before="<|im_start|>", text="{instruction} {query}: {document}", after="<|im_end|>", instruction="a"
    )
    nothing = cast("Any", None)
    model = RerankModel(nothing, RerankerSpec(architecture="any", max_tokens=16, prompt=prompt), tokenizer, nothing)

    def tokens(**fields: Any) -> tuple[int, ...]:
        wire = RerankRequest.model_validate({"model": "m", "query": "fox", "documents": ["x"], **fields})
        [pair] = encode_pairs(model, wire, [fields.get("document", "dog")])
        return pair.tokens

    def text(tokens: tuple[int, ...]) -> str:
        return b"".join(map(tokenizer.token_bytes, tokens[1:-1])).decode()

    start, end = (tokenizer.token_id(name) for name in ("<|im_start|>", "<|im_end|>"))
    for found in (tokens(), tokens(instruction="b")):
        assert (found[0], found[-1]) == (start, end)
    assert (text(tokens()), text(tokens(instruction="b"))) == ("a fox: dog", "b fox: dog")
    cut = tokens(document="z" * 50)
    assert (len(cut), cut[-1], text(cut)[:8]) == (16, end, "a fox: z")
    assert text(tokens(document="zzzz", max_tokens_per_doc=2)) in ("a fox: z", "a fox: zz")
    with pytest.raises(ContextLengthError, match="beside the query"):
        tokens(document="z" * 50, truncate=False)
    with pytest.raises(ContextLengthError, match="the query alone"):
        tokens(query="z" * 20)


def test_a_model_of_another_kind_is_refused_everywhere(ranking: RunningServer) -> None:
    body = {"model": "tiny-reranker", "input": "a", "messages": [{"role": "user", "content": "a"}]}
    for path in ("embeddings", "chat/completions"):
        response = httpx2.post(f"{ranking.base_url}/{path}", json=body)
        assert response.status_code == 400
        assert "ranks documents" in response.json()["error"]["message"]
    assert rerank(ranking, model="nobody").status_code == 404


def test_the_model_is_listed_as_what_it_is_and_the_path_is_in_the_document(ranking: RunningServer) -> None:
    models = {model["id"]: model["kind"] for model in httpx2.get(f"{ranking.base_url}/models").json()["data"]}
    assert models == {"tiny-encoder": "encoder", "tiny-reranker": "reranker"}
    assert "/v1/rerank" in document(ROUTES)["paths"]


def test_coheres_second_path_answers_too(ranking: RunningServer) -> None:
    body = {"model": "tiny-reranker", "query": _QUERY, "documents": _DOCUMENTS, "top_n": 1}
    response = httpx2.post(f"{ranking.root_url}/v2/rerank", json=body)
    assert response.json()["results"][0]["index"] == results(ranking)[0]["index"]

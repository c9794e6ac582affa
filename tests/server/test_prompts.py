"""Prompts in front of texts, by their purpose: from the bundle, chosen by a request."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import numpy as np
import pytest

from appliance.home import Home
from quantize.build import build_into_store
from quantize.progress import StageProgress
from quantize.recipe import Recipe
from tests.conftest import RunningServer, a_config, serving
from tests.quantize.tiny import FORCED, write_encoder

_PROMPTS = {"query": "the fox ", "document": "the dog "}


@pytest.fixture(scope="module")
def prompting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    root = tmp_path_factory.mktemp("prompts")
    home = Home(root / "home")
    checkpoint = write_encoder(root / "asking")
    settings = {"prompts": _PROMPTS, "default_prompt_name": "document"}
    (checkpoint / "config_sentence_transformers.json").write_text(json.dumps(settings))
    recipes = [
        Recipe.create(name="asking", source={"uri": str(checkpoint)}),
        Recipe.create(name="told", source={"uri": str(checkpoint)}, prompts={"query": "lazy "}),
    ]
    with StageProgress() as progress:
        for recipe in recipes:
            build_into_store(recipe, home, progress, FORCED)
    with serving(a_config(embeddings={"token_ids": "own"}), home) as server:
        yield server


def post(server: RunningServer, model: str, **fields: Any) -> httpx2.Response:
    return httpx2.post(f"{server.base_url}/embeddings", json={"model": model, **fields}, timeout=60)


def vector(server: RunningServer, model: str, **fields: Any) -> np.ndarray:
    response = post(server, model, **fields)
    assert response.status_code == 200, response.text
    return np.array(response.json()["data"][0]["embedding"])


def test_a_named_prompt_comes_in_front_of_the_text(prompting: RunningServer) -> None:
    prompted = vector(prompting, "told", input="sleeps", prompt_name="query")
    np.testing.assert_allclose(prompted, vector(prompting, "told", input="lazy sleeps"), atol=1e-6)
    assert not np.allclose(prompted, vector(prompting, "told", input="sleeps"), atol=1e-3)


def test_the_default_prompt_is_used_where_none_is_named(prompting: RunningServer) -> None:
    default = vector(prompting, "asking", input="sleeps")
    np.testing.assert_allclose(default, vector(prompting, "asking", input="sleeps", prompt_name="document"), atol=1e-6)
    np.testing.assert_allclose(default, vector(prompting, "told", input="the dog sleeps"), atol=1e-6)


def test_a_recipes_prompts_take_the_place_of_the_checkpoints(prompting: RunningServer) -> None:
    response = post(prompting, "told", input="a", prompt_name="document")
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "prompt_name"
    assert "query" in response.json()["error"]["message"]


def test_tokens_have_no_prompt(prompting: RunningServer) -> None:
    np.testing.assert_allclose(
        vector(prompting, "asking", input=[5, 6, 7]), vector(prompting, "told", input=[5, 6, 7]), atol=1e-6
    )
    assert post(prompting, "asking", input=[5, 6, 7], prompt_name="query").status_code == 400


def test_the_prompts_tokens_are_counted(prompting: RunningServer) -> None:
    bare, prompted = (
        post(prompting, "told", input="fox", **fields).json()["usage"]["prompt_tokens"]
        for fields in ({}, {"prompt_name": "query"})
    )
    assert prompted > bare

"""Nobody learns anything of a response that another key stored: each route answers as for an id that never was."""

from __future__ import annotations

from collections.abc import Iterator

import httpx2
import pytest

from appliance.home import Home
from tests.conftest import RunningServer, a_config, serving
from tests.server.responses.asking import MODEL

_ASKED = {"model": MODEL, "input": "Say hello.", "max_output_tokens": 4, "temperature": 0}


@pytest.fixture(scope="module")
def two_keys(starter_home: Home) -> Iterator[RunningServer]:
    with serving(a_config(server={"keys": ["key-of-one", "key-of-two"]}), starter_home) as server:
        yield server


def asker(server: RunningServer, key: str) -> httpx2.Client:
    return httpx2.Client(base_url=server.base_url, headers={"Authorization": f"Bearer {key}"}, timeout=120)


def test_another_key_gets_the_answers_of_an_id_that_never_was(two_keys: RunningServer) -> None:
    with asker(two_keys, "key-of-one") as owner, asker(two_keys, "key-of-two") as stranger:
        stored = owner.post("/responses", json=_ASKED).raise_for_status().json()
        item = stored["output"][0]["id"]
        real, absent = stored["id"], "resp_" + "0" * 32
        for method, path in (("GET", ""), ("GET", "/input_items"), ("DELETE", ""), ("POST", "/cancel")):
            found, expected = (stranger.request(method, f"/responses/{i}{path}") for i in (real, absent))
            assert (found.status_code, expected.status_code) == (404, 404)
            assert found.json()["error"]["message"].replace(real, absent) == expected.json()["error"]["message"]
        for body in ({"previous_response_id": stored["id"]}, {"input": [{"type": "item_reference", "id": item}]}):
            assert stranger.post("/responses", json={**_ASKED, **body}).status_code in {400, 404}
        assert owner.get(f"/responses/{stored['id']}").json() == stored
        assert owner.post("/responses", json={**_ASKED, "previous_response_id": stored["id"]}).status_code == 200

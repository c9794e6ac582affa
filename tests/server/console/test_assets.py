"""The page's files: their size, their headers, and that they come in every state, without a key."""

from __future__ import annotations

import asyncio
import gzip
import posixpath
import re
import sys
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest
from aiohttp import ClientSession
from aiohttp.test_utils import TestServer

from appliance.access.keystore import KeyStore, Role
from appliance.home import Home
from appliance.server.console.assets import LANDING, PAGE, assets
from appliance.server.context import CONTEXT
from appliance.service.composition import compose
from tests.abuse.bare_server import bare_server
from tests.conftest import a_config, serving
from tests.server.test_safe_mode import safe_server

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
FILES = ["/", *(f"/console/{name}" for name in assets())]
HTML_SINKS = r"\b(innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|eval|Function)\b|srcdoc|setHTML"


def imported(name: str) -> set[str]:
    """Return the files that a module imports as it is loaded."""
    text = assets()[name].plain.decode()
    found = re.findall(r"^import [^;]*?from \"([^\"]+)\"", text, re.MULTILINE | re.DOTALL)
    return {posixpath.normpath(posixpath.join(posixpath.dirname(name), path)) for path in found}


def loaded(*names: str) -> set[str]:
    """Return these modules with all that they import, and the words and styles that come with them."""
    seen, left = set[str](), set(names)
    while left:
        name = left.pop()
        seen.add(name)
        left |= imported(name) - seen
    if "words.js" in seen:
        seen.add("fr.js")  # the longest
    if "first/print.js" in seen:
        seen |= {"first/fr.js", "first/style.css"}
    if "admin/say.js" in seen:
        seen |= {"admin/fr.js", "admin/style.css"}
    return seen


def visited(page: str) -> set[str]:
    """Return the files that a visit of the page loads, itself among them: one language, and nothing seldom needed."""
    named = set(re.findall(r"\"console/([^\"]+)\"", assets()[page].plain.decode()))
    return (
        {page} | {name for name in named if not name.endswith(".js")} | loaded(*(n for n in named if n.endswith(".js")))
    )


def opened(folder: str) -> set[str]:
    """Return the modules that are loaded when they are needed, by the files of a folder that name them."""
    texts = [
        file.plain.decode()
        for name, file in assets().items()
        if name.endswith(".js") and posixpath.dirname(name) == folder.rstrip("/")
    ]
    found = {name for text in texts for name in re.findall(r"import\(\"\./([\w/]+\.js)\"\)(?!\.[A-Z])", text)}
    return {folder + name for name in found}


SHELL = visited(PAGE)
VIEWS = sorted(name for name in opened("") if name.startswith("admin/"))
LATER = sorted(opened("") - set(VIEWS))
SELDOM = visited(LANDING) | loaded(*LATER, *opened("admin/"))


def sizes(names: set[str]) -> tuple[int, int]:
    return sum(len(assets()[n].plain) for n in names), sum(len(assets()[n].compressed) for n in names)


def test_the_page_is_small_and_so_is_each_view_with_it() -> None:
    parts = {"chat": SHELL, "landing": visited(LANDING)}
    parts |= {f"chat + {name}": SHELL | loaded(name) for name in (*LATER, *VIEWS)}
    table = [f"{'files':>5} {'bytes':>8} {'gzip':>7}  part"]
    for part, files in parts.items():
        plain, compressed = sizes(files)
        table.append(f"{len(files):5} {plain:8,} {compressed:7,}  {part}")
        most = (155_000, 58_000) if "admin/" in part else (113_000, 41_000) if "+" in part else (100_000, 35_000)
        assert (part, plain <= most[0], compressed <= most[1]) == (part, True, True)
    sys.stdout.write("\n".join(["", *table, ""]))  # pytest -s shows it
    assert len(VIEWS) == 5
    assert max(len(SHELL), len(visited(LANDING))) <= 20


def test_every_file_is_loaded_by_the_page_or_by_a_view() -> None:
    languages = {name for name in assets() if re.fullmatch(r"(admin/|first/)?[a-z]{2}\.js", name)}
    assert assets().keys() - languages == (SHELL | SELDOM | loaded(*VIEWS)) - languages


@pytest.mark.parametrize("name", sorted(assets()))
def test_a_file_is_short_and_names_nothing_elsewhere_and_makes_no_markup(name: str) -> None:
    text = assets()[name].plain.decode()
    assert len(text.splitlines()) < 300
    assert not re.search(HTML_SINKS, text)
    assert not re.search(r"\b(src|href)=\"(https?:)?//|url\(|@import|import\(?[^;]*[\"']https?:", text)
    if name.endswith(".js"):
        assert imported(name) <= assets().keys()
    if name in {PAGE, LANDING}:
        assert all(file in assets() for file in re.findall(r"\"console/([^\"]+)\"", text))
        assert not re.search(r"<style|style=|<script>|\son\w+=", text)


@pytest.mark.parametrize("folder", ["", "admin/", "first/"])
def test_every_language_has_the_same_words(folder: str) -> None:
    files = sorted(name for name in assets() if re.fullmatch(rf"{folder}[a-z]{{2}}\.js", name))
    assert [name[-5:] for name in files] == ["de.js", "en.js", "fr.js"]
    texts = {
        name: dict(re.findall(r"(?:^|, |  )(\w+): \"(.*?)\"", assets()[name].plain.decode(), re.MULTILINE))
        for name in files
    }
    english = texts[f"{folder}en.js"]
    assert len(english) > 30
    for words in texts.values():
        assert words.keys() == english.keys()
        for name, text in words.items():
            assert (name, set(re.findall(r"\{\w+\}", text))) == (name, set(re.findall(r"\{\w+\}", english[name])))


def test_every_word_of_administration_that_a_view_takes_is_there() -> None:
    there = set(re.findall(r"(?:^|, |  )(\w+): \"", assets()["admin/en.js"].plain.decode(), re.MULTILINE))
    taken = {
        word
        for name in assets()
        if name.startswith("admin/") and name.endswith(".js")
        for word in re.findall(r"\bsay\.(\w+)", assets()[name].plain.decode().replace("say.js", ""))
    }
    assert taken <= there
    built = (
        "decoder",
        "encoder",
        "reranker",
        "metric_",
        "step_",
        "state_",
        "inference",
        "administration",
        "good",
        "note",
        "bad",
    )
    assert {word for word in there - taken if not word.startswith(built)} == set()


def test_every_file_has_the_headers_of_the_page_and_both_encodings(tmp_path: Path) -> None:
    with bare_server(tmp_path) as server, httpx2.Client(base_url=f"http://127.0.0.1:{server.port}") as client:
        for path in FILES:
            plain = client.get(path, headers={"accept-encoding": "identity"})
            small = client.get(path, headers={"accept-encoding": "br, gzip;q=0.8"})
            refused = client.get(path, headers={"accept-encoding": "gzip;q=0"})
            file = assets()[path.removeprefix("/console/").strip("/") or PAGE]
            assert (plain.status_code, plain.content, small.content, refused.content) == (200, *[file.plain] * 3)
            assert gzip.decompress(file.compressed) == file.plain
            assert small.headers["content-encoding"] == "gzip"
            assert int(small.headers["content-length"]) == len(file.compressed)
            assert {"content-encoding"}.isdisjoint(plain.headers.keys() | refused.headers.keys())
            for answer in (plain, small):
                assert answer.headers["content-security-policy"] == CSP
                assert answer.headers["x-content-type-options"] == "nosniff"
                assert "strict-transport-security" not in answer.headers
                assert "accept-encoding" in answer.headers["vary"].lower()
                assert answer.headers["content-type"] == file.content_type
            again = client.get(path, headers={"if-none-match": plain.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")
            assert client.get(path, headers={"if-none-match": '"other"'}).status_code == 200
            assert client.head(path).headers["etag"] == plain.headers["etag"]


def test_an_unknown_file_and_a_path_out_of_the_folder_are_not_found(tmp_path: Path) -> None:
    with bare_server(tmp_path) as server:
        for path in ("/console/none.js", "/console/..%2froute.py", "/console/__init__.py"):
            assert server.get(path)[0] == 404


def test_it_comes_without_a_key_to_a_server_that_wants_one_and_to_an_unclaimed_one(tmp_path: Path) -> None:
    keyed = Home(tmp_path / "keyed")
    KeyStore(keyed.api_keys).create("admin", role=Role.ADMINISTRATION)
    cases: list[tuple[dict[str, object], Home]] = [({}, keyed), ({"claimable": True}, Home(tmp_path / "new"))]
    for settings, home in cases:
        with serving(a_config(server=settings), home) as server:
            assert [httpx2.get(server.root_url + path).status_code for path in FILES] == [200] * len(FILES)
            assert httpx2.get(f"{server.root_url}/v1/models").status_code == 401


def test_it_comes_in_safe_mode(tmp_path: Path) -> None:
    with safe_server(Home(tmp_path / "home")) as port:
        assert [httpx2.get(f"http://127.0.0.1:{port}{path}").status_code for path in FILES] == [200] * len(FILES)


def test_it_comes_while_the_device_is_draining(tmp_path: Path) -> None:
    parts = compose(a_config(), Home(tmp_path))
    parts.endpoints.close()
    parts.app[CONTEXT] = replace(parts.app[CONTEXT], is_draining=lambda: True)

    async def ask() -> tuple[str, set[int]]:
        async with TestServer(parts.app) as server, ClientSession(server.make_url("/")) as session:
            async with session.get("/health") as answer:
                state = (await answer.json())["status"]
            statuses = set()
            for path in FILES:
                async with session.get(path) as answer:
                    statuses.add(answer.status)
            return state, statuses

    assert asyncio.run(ask()) == ("draining", {200})

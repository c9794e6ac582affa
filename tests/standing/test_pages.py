"""The pages for people are true: files, headings, commands, options and routes that they name exist."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import httpx2
import pytest

from appliance.__main__ import _VERBS
from appliance.__main__ import main as lantern
from appliance.config import Config
from quantize.cli import main as lantern_quantize
from tests.conftest import RunningServer

ROOT = Path(__file__).parents[2]
PAGES = [
    page
    for page in sorted(ROOT.rglob("*.md"))
    if not page.relative_to(ROOT).parts[0].startswith(".") and "dist" not in page.parts
]
HISTORY = ROOT / "CHANGELOG.md"  # keeps the names of earlier versions
FOLDERS = "appliance|quantize|images|systemd|tests|docs|examples"


def anchors(page: Path) -> set[str]:
    """The names that a page's headings have in links."""
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_and_every_path_on_a_page_leads_somewhere(page: Path) -> None:
    text = page.read_text("utf-8")
    for target in re.findall(r"\]\(([^)#\s]*)(?:#[\w-]*)?\)", text):
        assert target.startswith("https://") or (page.parent / target).exists(), target
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#([\w-]+)\)", text):
        assert target.startswith("https://") or anchor in anchors((page.parent / target) if target else page), anchor
    for path in re.findall(rf"`((?:{FOLDERS})/[\w./-]*\w)`", text):
        assert (ROOT / path).exists(), path
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert set(re.findall(r"`(?:sudo )?make ([a-z-]+)", text)) <= targets


@pytest.mark.parametrize("page", [page for page in PAGES if page != HISTORY], ids=lambda page: page.name)
def test_every_module_and_every_setting_on_a_page_is_there(page: Path) -> None:
    text = page.read_text("utf-8")
    sources = [f"/{path.relative_to(ROOT)}" for top in FOLDERS.split("|") for path in (ROOT / top).rglob("*.*")]
    for name in re.findall(r"`((?:[\w-]+/)*[\w-]+\.(?:py|js|sh|md))`", text):
        assert (ROOT / name).exists() or any(path.endswith(f"/{name}") for path in sources), name
    sections = {name: field.annotation for name, field in Config.model_fields.items()}
    for section, key in re.findall(r"`(\w+)\.(\w+)(?: = [^`]*)?`", text):
        assert section not in sections or key in getattr(sections[section], "model_fields", {}), f"{section}.{key}"


def test_the_map_has_every_package_and_nothing_else() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    drawn = text[text.index("## The map") : text.index("Imports point downwards only")]
    heads = [re.split(r" {2,}", line.strip(), maxsplit=1)[0] for line in drawn.splitlines()]
    named = {name for head in heads for name in re.findall(r"(?<!\S)(\w+(?:/|\.py))(?=\s|$)", head)}
    tops = (ROOT / "appliance", ROOT / "quantize")
    found = {path.name for top in tops for path in top.rglob("*.py")}
    found |= {f"{path.parent.name}/" for top in tops for path in top.rglob("*.*")} | {"images/", "quantize/"}
    assert named <= found
    assert {f"{path.parent.name}/" for top in tops for path in top.glob("*/__init__.py")} <= set(
        re.findall(r"\b\w+/", drawn)
    )


def test_the_readme_lists_every_verb() -> None:
    listed = set(re.findall(r"`lantern ([a-z-]+)", (ROOT / "README.md").read_text("utf-8")))
    assert set(_VERBS) <= listed


def test_the_makefile_cites_pages_that_are_there() -> None:
    for page in re.findall(r"[\w/-]+\.md", (ROOT / "Makefile").read_text("utf-8")):
        assert (ROOT / page).exists(), page


def commands(text: str) -> set[str]:
    """The commands on a page: lines of shell blocks, and code within a sentence."""
    blocks = re.findall(r"```(?:sh|console)\n(.*?)```", text, re.DOTALL)
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    found = re.findall(
        r"(?:^|[( ])(lantern(?:-quantize)? [a-z-]+[^#|)\n]*)", "\n".join([*blocks, *inline]), re.MULTILINE
    )
    return {command.strip() for command in found}


COMMANDS = sorted({c for page in PAGES if page != HISTORY for c in commands(page.read_text("utf-8"))})


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_on_a_page_has_that_verb_and_those_options(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    program, *words = command.split()
    verbs = list(itertools.takewhile(re.compile(r"[a-z][a-z-]*").fullmatch, words))[:2]
    with pytest.raises(SystemExit) as end:
        {"lantern": lantern, "lantern-quantize": lantern_quantize}[program]([*verbs, "--help"])
    help_text = capsys.readouterr().out
    assert end.value.code == 0
    assert {word for word in words if word.startswith("--")} <= set(re.findall(r"--[a-z][a-z-]*", help_text))


@pytest.mark.models
def test_the_page_of_the_api_lists_the_routes_of_the_server(server: RunningServer) -> None:
    page = (ROOT / "docs/http-api.md").read_text("utf-8")
    listed = set(re.findall(r"`(GET|POST|PUT|PATCH|DELETE) (/[^`\s]+)`", page))
    document = httpx2.get(f"{server.root_url}/openapi.json").json()
    described = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    same = {(method, path.replace("{model}", "{id}")) for method, path in described}
    assert same <= listed
    for method, path in listed:
        answer = httpx2.request(method, server.root_url + re.sub(r"\{\w+\}", "none", path))
        error = {"code": "", "message": ""} if answer.is_success else answer.json()["error"]
        assert error["code"] != "method_not_allowed", (method, path)
        assert not error["message"].startswith("Unknown request URL"), (method, path)

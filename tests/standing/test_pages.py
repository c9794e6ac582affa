"""The pages for people are true: files, headings, commands, options and routes that they name exist."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import httpx2
import pytest

from appliance.__main__ import main as lantern
from quantize.cli import main as lantern_quantize
from tests.conftest import RunningServer

ROOT = Path(__file__).parents[2]
PAGES = [
    page
    for page in sorted(ROOT.rglob("*.md"))
    if not page.relative_to(ROOT).parts[0].startswith(".") and "dist" not in page.parts
]
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


def commands(text: str) -> set[str]:
    """The commands on a page: lines of shell blocks, and code within a sentence."""
    blocks = re.findall(r"```(?:sh|console)\n(.*?)```", text, re.DOTALL)
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    found = re.findall(
        r"(?:^|[( ])(lantern(?:-quantize)? [a-z-]+[^#|)\n]*)", "\n".join([*blocks, *inline]), re.MULTILINE
    )
    return {command.strip() for command in found}


HISTORY = ROOT / "CHANGELOG.md"  # keeps the commands of earlier versions
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

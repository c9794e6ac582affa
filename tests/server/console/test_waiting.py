"""The time before an answer and while it runs: the place in the queue, the prompt that is read, a full context."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.server.console.driver import NO_PLAYWRIGHT

pytest.importorskip("playwright", reason=NO_PLAYWRIGHT)

from playwright.sync_api import Browser, Page, expect

from appliance.home import Home
from tests.conftest import RunningServer, a_config, serving
from tests.server.console.test_chat import LONG_MS, answer_with, answer_without_end, ask, wait_for_end, wait_for_text
from tests.server.responses.asking import MODEL

LONG_QUESTION = "The stars of tonight are counted one by one. " * 40
# Every text that a message shows before its answer, and every part of a bar.
_WATCH = """() => {
    window.seen = [];
    new MutationObserver(() => {
        const line = document.querySelector('.message.assistant .waits');
        const bar = line?.querySelector('progress');
        if (line && !line.hidden) seen.push([line.textContent, bar.hidden ? null : bar.value]);
    }).observe(document.body, { subtree: true, childList: true, characterData: true, attributes: true });
}"""
PLACE = {"en-GB": "Place 1 in the queue", "de": "Platz 1 in der Warteschlange", "fr": "Place 1 dans la file d’attente"}
READ = {"en-GB": "Reading the prompt: ", "de": "Die Eingabe wird gelesen: ", "fr": "Lecture de l’invite : "}


@pytest.fixture(scope="module")
def narrow_server(starter_home: Home) -> Iterator[RunningServer]:
    """A server with one slot and a short context."""
    with serving(a_config(engine={"slots": 1, "context_length": 640}), starter_home) as running:
        yield running


def open_page(browser: Browser, server: RunningServer, locale: str = "en-GB") -> Page:
    page = browser.new_context(locale=locale).new_page()
    page.goto(server.root_url)
    expect(page.locator("select option").first).to_be_attached()
    return page


@pytest.mark.parametrize("locale", ["en-GB", "de", "fr"])
def test_a_question_tells_its_place_then_the_tokens_of_its_prompt(
    browser: Browser, narrow_server: RunningServer, locale: str
) -> None:
    page = open_page(browser, narrow_server, locale)
    page.evaluate(_WATCH)
    says = {"messages": [{"role": "user", "content": "Count."}], "model": MODEL, "stream": True, "ignore_eos": True}
    with httpx2.stream("POST", f"{narrow_server.base_url}/chat/completions", json=says, timeout=60) as running:
        lines = running.iter_lines()
        next(lines)  # it has the slot
        page.locator("textarea[name=question]").fill(f"{locale} {LONG_QUESTION}")
        page.keyboard.press("Enter")
        expect(page.locator(".message.assistant .waits")).to_have_text(PLACE[locale])
        running.close()
    expect(page.locator(".message.assistant .foot")).to_contain_text("/s", timeout=LONG_MS)
    expect(page.locator(".message.assistant .waits")).to_be_hidden()
    seen: list[tuple[str, float | None]] = page.evaluate("seen")
    parts = [part for text, part in seen if text.startswith(READ[locale]) and part is not None]
    assert parts == sorted(parts)
    assert parts[-1] == 1
    assert len(set(parts)) > 1
    page.context.close()


def test_the_speed_is_told_while_an_answer_runs(page: Page) -> None:
    answer_without_end(page)
    ask(page, "Count.")
    wait_for_text(page)
    expect(page.locator(".message.assistant .foot")).to_contain_text("tokens/s")
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    page.get_by_role("button", name="Stop").click()
    wait_for_end(page)


def test_the_speed_is_written_once_a_second_not_once_a_token(page: Page) -> None:
    page.evaluate("""() => {
        window.writes = 0;
        const foot = (node) => (node.parentElement ?? node).closest('.message.assistant .foot');
        new MutationObserver((records) => { writes += records.filter(({ target }) => foot(target)).length; })
            .observe(document.body, { subtree: true, childList: true, characterData: true });
    }""")
    answer_with(page, *[f"{i} " for i in range(5000)])
    ask(page, "x")
    wait_for_end(page)
    assert page.locator(".message.assistant .text").inner_text().endswith("4999")
    assert page.evaluate("writes") < 50


def test_a_chat_that_is_too_long_leaves_out_its_oldest_messages_on_demand(
    browser: Browser, narrow_server: RunningServer
) -> None:
    page = open_page(browser, narrow_server)
    asked: list[dict[str, Any]] = []
    page.on(
        "request", lambda request: asked.append(json.loads(request.post_data or "{}")) if request.post_data else None
    )
    page.get_by_text("Options").click()
    page.get_by_label("Longest answer").fill("8")
    answers = page.locator(".message.assistant")
    for i in range(2):
        ask(page, f"{i} " + "The stars of tonight. " * 60)
        expect(answers.nth(i).get_by_role("button").first).to_be_visible(timeout=LONG_MS)
    expect(answers.nth(1).locator(".notice")).to_contain_text("longer than the context")
    answers.nth(1).get_by_role("button", name="Leave out the oldest").click()
    expect(answers.nth(1).locator(".notice")).to_contain_text("Left out of the context: the 2 oldest", timeout=LONG_MS)
    assert answers.nth(1).locator(".text").inner_text()
    assert [one.get("truncation") for one in asked if "input" in one] == [None, None, "auto"]
    page.reload()
    expect(answers.nth(1).locator(".notice")).to_contain_text("Left out of the context: the 2 oldest")
    page.get_by_text("Options").click()
    expect(page.get_by_label("Leave out the oldest")).to_be_checked()
    ask(page, "The stars. " * 1500)
    expect(answers.nth(2).locator(".notice")).to_contain_text("longer than the context", timeout=LONG_MS)
    expect(answers.nth(2).get_by_role("button", name="Regenerate")).to_be_visible()
    page.context.close()

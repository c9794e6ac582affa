"""A tab that the system puts to sleep, and a key that is typed beside a long chat."""

from __future__ import annotations

import pytest

from tests.server.console.driver import NO_PLAYWRIGHT

pytest.importorskip("playwright", reason=NO_PLAYWRIGHT)

from playwright.sync_api import Page, expect

from tests.conftest import RunningServer
from tests.server.console.cable import Cable
from tests.server.console.keeping import kept_answer
from tests.server.console.test_chat import (
    LONG_ANSWER,
    answer_with,
    answer_without_end,
    ask,
    wait_for_end,
    wait_for_idle,
    wait_for_text,
)
from tests.server.responses.asking import create, text_of

_WATCH = """() => {
    window.outside = [];
    new MutationObserver((records) => {
        for (const { target } of records) if (!target.parentElement?.closest('.dock')) outside.push(target.nodeName);
    }).observe(document.body, { subtree: true, childList: true, characterData: true, attributes: true });
}"""


def test_a_tab_that_slept_while_its_answer_was_made_shows_the_whole_of_it(page: Page, server: RunningServer) -> None:
    """Its connection ends meanwhile, as that of a phone does."""
    asked = [{"role": "user", "content": "Count."}]
    whole = text_of(create(server, input=asked, ignore_eos=True, **LONG_ANSWER))
    with Cable(server.service.port) as cable:
        page.goto(cable.url)
        answer_without_end(page, **LONG_ANSWER)
        ask(page, "Count.")
        wait_for_text(page)
        session = page.context.new_cdp_session(page)
        session.send("Page.setWebLifecycleState", {"state": "frozen"})
        cable.cut()
        wait_for_idle(server)  # the device has the answer
        cable.mend()
        session.send("Page.setWebLifecycleState", {"state": "active"})
        wait_for_end(page)
        assert kept_answer(page) == whole
        expect(page.locator(".message.assistant .text")).to_have_count(1)


def test_a_key_that_is_typed_changes_nothing_of_a_long_chat(page: Page) -> None:
    """The cost of a key does not grow with the chat: what was said is neither rendered nor counted again."""
    answer_with(page, *["A paragraph with **some** words.\n\n"] * 3000)
    ask(page, "x")
    wait_for_end(page)
    expect(page.locator(".message.assistant .text p")).to_have_count(3000)
    page.evaluate(_WATCH)
    page.keyboard.type("a question of some words")
    expect(page.get_by_label("Your message")).to_have_value("a question of some words")
    expect(page.locator(".context")).to_contain_text("8 of 2,048")
    assert page.evaluate("outside") == []

"""Many tabs of one browser, which gives an origin six connections: idle tabs hold none, and an answer holds one."""

from __future__ import annotations

import pytest

from tests.server.console.driver import NO_PLAYWRIGHT

pytest.importorskip("playwright", reason=NO_PLAYWRIGHT)

from playwright.sync_api import Page, expect

from tests.conftest import RunningServer
from tests.server.console.test_chat import answer_without_end, ask, wait_for_idle, wait_for_text

NUM_CONNECTIONS = 6  # of Chromium to one origin over HTTP/1.1


def tabs(page: Page, url: str, count: int) -> list[Page]:
    """Open tabs of one browser beside the first one, each with a chat of its own."""
    others = [page.context.new_page() for _ in range(count)]
    for tab in others:
        tab.goto(url)
        expect(tab.locator("#state")).to_have_text("Ready")
        expect(tab.locator("select[name=model] option").first).to_be_attached()
        tab.get_by_role("button", name="New chat").click()
    return others


def test_idle_tabs_hold_no_connection(page: Page, server: RunningServer) -> None:
    tabs(page, server.root_url, NUM_CONNECTIONS + 2)  # the last ones would wait for ever
    assert len(page.context.pages) == NUM_CONNECTIONS + 3


def test_stop_works_while_the_answers_of_other_tabs_hold_connections(page: Page, server: RunningServer) -> None:
    first, *others = tabs(page, server.root_url, NUM_CONNECTIONS - 1)
    for tab in (first, *others):
        answer_without_end(tab)
        with tab.expect_request("**/v1/responses"):
            ask(tab, "Count.")
        expect(tab.get_by_role("button", name="Stop")).to_be_visible()
    wait_for_text(first)
    first.bring_to_front()
    with first.expect_response(lambda answer: answer.request.method == "DELETE") as ended:
        first.get_by_role("button", name="Stop").click()
    assert ended.value.ok
    expect(first.locator(".message.assistant")).to_contain_text("Stopped.")
    for tab in others:
        tab.bring_to_front()
        tab.get_by_role("button", name="Stop").click()
        expect(tab.get_by_role("button", name="Send")).to_be_visible()
    wait_for_idle(server)

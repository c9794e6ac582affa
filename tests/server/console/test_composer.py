"""The composer: files beside a message, the settings of a chat, and how full the context is."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.server.console.driver import NO_PLAYWRIGHT

pytest.importorskip("playwright", reason=NO_PLAYWRIGHT)

from playwright.sync_api import Page, Route, expect

from tests.server.console.test_chat import answer_with, ask, wait_for_end

PICTURE: Any = {"name": "cat.png", "mimeType": "image/png", "buffer": b"\x89PNG\r\n\x1a\n\x00\xff"}
NOTES: Any = {"name": "notes.txt", "mimeType": "text/plain", "buffer": "Die Größe ist 7.".encode()}


def asked(page: Page) -> list[dict[str, Any]]:
    """Return the list that gets every request for an answer."""
    requests: list[dict[str, Any]] = []

    def note(route: Route) -> None:
        requests.append(json.loads(route.request.post_data or ""))
        route.fallback()

    page.route("**/v1/responses", note)
    return requests


def test_a_text_file_goes_with_the_message_and_a_picture_is_refused(page: Page) -> None:
    answer_with(page, "seen")
    requests = asked(page)
    page.locator(".ask input[type=file]").set_input_files([NOTES, PICTURE])
    expect(page.get_by_role("alert")).to_contain_text("cat.png is not text")
    expect(page.locator(".chips li")).to_have_count(1)
    ask(page, "How large?")
    expect(page.locator(".chip summary")).to_contain_text("notes.txt (16 characters)")
    expect(page.locator(".chips li")).to_have_count(0)
    wait_for_end(page)
    assert requests[0]["input"] == [
        {"role": "user", "content": "[notes.txt]\nDie Größe ist 7.\n[/notes.txt]\n\nHow large?"}
    ]
    page.reload()
    page.locator(".chip summary").click()
    expect(page.locator(".chip pre")).to_have_text("Die Größe ist 7.")


def test_a_message_that_is_sent_while_a_file_is_read_takes_it_along(page: Page) -> None:
    answer_with(page, "seen")
    requests = asked(page)
    held: list[Route] = []
    page.route("**/files.js", lambda route: held.append(route))
    page.locator(".ask input[type=file]").set_input_files(NOTES)
    ask(page, "How large?")
    page.keyboard.press("Enter")  # a second time, which must not ask twice
    while not held:
        page.wait_for_timeout(5)
    assert requests == []
    held[0].continue_()
    wait_for_end(page)
    assert [one["input"][-1]["content"] for one in requests] == [
        "[notes.txt]\nDie Größe ist 7.\n[/notes.txt]\n\nHow large?"
    ]
    expect(page.locator(".chips li")).to_have_count(0)


_PASTE = """([text, name]) => {
    const data = new DataTransfer();
    data.setData('text/plain', text);
    const paste = new ClipboardEvent('paste', { clipboardData: data, cancelable: true, bubbles: true });
    document.querySelector(name).dispatchEvent(paste);
}"""


def test_a_long_paste_becomes_a_chip_that_can_be_removed(page: Page) -> None:
    page.get_by_label("Your message").focus()
    page.evaluate(_PASTE, ["short", "[name=question]"])
    assert page.locator(".chips li").count() == 0
    page.evaluate(_PASTE, ["long " * 500, "[name=question]"])
    expect(page.locator(".chips li")).to_contain_text("Pasted text (2,500 characters)")
    page.get_by_role("button", name="Remove Pasted text").click()
    expect(page.locator(".chips li")).to_have_count(0)


def test_the_settings_of_a_chat_go_with_each_question_and_stay_with_the_chat(page: Page) -> None:
    answer_with(page, "{}")
    requests = asked(page)
    page.get_by_text("Options").click()
    page.get_by_label("Temperature").fill("0.5")
    page.get_by_label("Top-p").fill("0.9")
    page.get_by_label("Longest answer").fill("64")
    page.get_by_label("System prompt").fill("Be short.")
    page.get_by_label("JSON Schema of the answer").fill("[1]")
    ask(page, "x")
    assert requests == []  # and the field says what is wrong with it
    page.get_by_label("JSON Schema of the answer").fill('{"type": "object"}')
    ask(page, "x")
    expect(page.locator(".message.assistant .text")).to_have_text("{}")
    wanted = {"temperature": 0.5, "top_p": 0.9, "max_output_tokens": 64, "instructions": "Be short."}
    assert {name: requests[0].get(name) for name in wanted} == wanted
    assert requests[0]["text"]["format"]["schema"] == {"type": "object"}
    page.get_by_role("button", name="New chat").click()
    ask(page, "y")
    expect(page.locator(".message.user .text")).to_have_text("y")
    expect(page.locator(".message.assistant .text")).to_have_text("{}")
    assert requests[1].keys() & wanted.keys() == set()
    page.reload()
    page.get_by_role("button", name="x", exact=True).click()
    page.get_by_text("Options").click()
    expect(page.get_by_label("Top-p")).to_have_value("0.9")


def test_an_answer_has_the_form_of_its_schema(page: Page) -> None:
    schema = {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]}
    page.get_by_text("Options").click()
    page.get_by_label("JSON Schema of the answer").fill(json.dumps(schema))
    ask(page, "What is the capital of France?")
    wait_for_end(page)
    text = page.locator(".message.assistant .text").inner_text()
    assert json.loads(text)["city"] in {"Paris", "Rome"}


def test_the_context_is_told_before_a_question_is_too_long_for_it(page: Page) -> None:
    page.get_by_label("Your message").fill("a" * 300)
    expect(page.locator(".context")).to_have_text("100 of 2,048 tokens")
    page.get_by_label("Your message").fill("a" * 9000)
    expect(page.locator(".context")).to_have_text("Longer than the context")

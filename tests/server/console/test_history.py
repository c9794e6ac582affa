"""The chats of the page: searched, renamed, carried over, shared by two tabs, and kept where the browser allows it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.server.console.driver import NO_PLAYWRIGHT

pytest.importorskip("playwright", reason=NO_PLAYWRIGHT)

from playwright.sync_api import Browser, Page, expect

from tests.conftest import RunningServer
from tests.server.console.aside import aside
from tests.server.console.keeping import OLD_CHATS, kept, old_chat
from tests.server.console.test_chat import answer_with, ask

BELOW_ITSELF = [{"id": "b", "parent": "b", "role": "user", "content": "", "at": 1}]
NO_CHAT: dict[str, Any] = {"id": "a", "name": "", "model": "", "system": "", "settings": {}, "leaf": None, "at": 1}
ENDLESS = {**NO_CHAT, "messages": BELOW_ITSELF}


def ask_and_wait(page: Page, question: str) -> None:
    ask(page, question)
    expect(page.locator(".message.user").last).to_contain_text(question)
    expect(page.locator(".message.assistant").last.get_by_role("button", name="Regenerate")).to_be_visible()


def expect_names(page: Page, *names: str) -> None:
    """Wait until the list holds these chats, which it is told of after a question is shown."""
    expect(page.locator(".chats .list li > button:first-child")).to_have_text(list(names))


_AT_ONCE = """([name, question]) => {
    const button = [...document.querySelectorAll("button")].find((one) => one.textContent === name);
    const text = document.querySelector("[name=question]");
    button.click();
    text.value = question;
    text.form.requestSubmit();
}"""


def test_a_question_that_is_asked_while_a_chat_opens_belongs_to_it(page: Page) -> None:
    answer_with(page, "here")
    ask_and_wait(page, "first")
    page.evaluate(_AT_ONCE, ["New chat", "second"])
    expect(page.locator(".message.user")).to_have_count(1)
    expect(page.locator(".message.user")).to_contain_text("second")
    expect(page.locator(".chats .list li")).to_have_count(2)


def test_chats_are_searched_renamed_and_deleted(page: Page) -> None:
    page.on("dialog", lambda dialog: dialog.accept())
    answer_with(page, "The Größe of a *lantern*.")
    for question in ("How large is a lantern?", "What is a ferry?", "Where is Paris?"):
        page.get_by_role("button", name="New chat").click()
        ask_and_wait(page, question)
    expect_names(page, "Where is Paris?", "What is a ferry?", "How large is a lantern?")
    page.keyboard.press("Control+k")
    page.keyboard.type("FERRY")
    expect(page.locator(".chats .list li")).to_have_count(1)
    page.get_by_label("Search chats").fill("grosse")
    expect(page.get_by_text("No chat has that text.")).to_be_visible()
    page.get_by_label("Search chats").fill("große")
    page.get_by_label("Search chats").fill("Große")
    page.get_by_label("Search chats").fill("größe OF a")
    expect(page.locator(".chats .list li")).to_have_count(3)
    page.get_by_label("Search chats").fill("")
    page.get_by_role("button", name="Rename chat What is a ferry?").click()
    page.get_by_label("New name").fill("Boats")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Boats", exact=True)).to_be_visible()
    page.get_by_role("button", name="Delete chat Where is Paris?").click()
    expect(page.locator(".chats .list li")).to_have_count(2)
    page.reload()
    expect(page.locator(".chats .list li")).to_have_count(2)
    expect_names(page, "Boats", "How large is a lantern?")
    told = kept(page)
    assert len(told["messages"]) == 4  # those of the deleted chat are gone with it


def test_many_chats_are_kept_and_found(page: Page) -> None:
    many = [old_chat(number, num_messages=6) for number in range(400)]
    page.evaluate("([name, text]) => localStorage.setItem(name, text)", [OLD_CHATS, json.dumps(many)])
    page.reload()
    expect(page.locator(".chats .list li")).to_have_count(400)
    page.get_by_label("Search chats").fill("message 3 of chat 77 ")
    expect(page.locator(".chats .list li")).to_have_count(1)
    page.locator(".chats .list li button").first.click()
    expect(page.locator(".message")).to_have_count(6)
    expect(page.locator(".message").nth(3)).to_be_in_viewport()


def test_a_question_that_is_edited_and_an_answer_made_again_are_branches(page: Page, tmp_path: Path) -> None:
    answer_with(page, "first answer")
    ask_and_wait(page, "first question")
    answer_with(page, "second answer")
    page.get_by_role("button", name="Regenerate").click()
    expect(page.locator(".message.assistant .text")).to_have_text("second answer")
    expect(page.locator(".versions")).to_have_text("‹2 of 2›")
    page.get_by_role("button", name="Previous version").click()
    expect(page.locator(".message.assistant .text")).to_have_text("first answer")
    page.get_by_label("Your message").focus()
    page.keyboard.press("ArrowUp")
    expect(page.get_by_label("Your message")).to_have_value("first question")
    answer_with(page, "third answer")
    ask_and_wait(page, "another question")
    expect(page.locator(".message")).to_have_count(2)
    expect(page.locator(".message.user .versions")).to_have_text("‹2 of 2›")
    page.reload()
    expect(page.locator(".message.user .text")).to_have_text("another question")
    page.get_by_role("button", name="Previous version").click()
    expect(page.locator(".message.user .text")).to_have_text("first question")
    expect(page.locator(".message.assistant .text")).to_have_text("second answer")  # the newest branch below
    page.get_by_role("button", name="Edit").click()
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_text("sending it makes a branch")).to_be_hidden()


_WIPE = """() => new Promise((resolve, reject) => {
    const request = indexedDB.deleteDatabase('lantern');
    request.onsuccess = () => resolve();
    request.onerror = () => reject(request.error);
})"""


def test_what_is_exported_and_wiped_is_read_again_with_all_branches(page: Page, tmp_path: Path) -> None:
    answer_with(page, "half an emoji \ud83d, a whole 😀, a mark \u202e that turns the text")
    ask_and_wait(page, "a question")
    for _ in range(2):
        page.get_by_role("button", name="Regenerate").click()
        expect(page.locator(".message.assistant").get_by_role("button", name="Regenerate")).to_be_visible()
    before = kept(page)
    assert len(before["messages"]) == 4
    with page.expect_download() as saved:
        page.get_by_role("button", name="Export").click()
    path = tmp_path / "chats.json"
    saved.value.save_as(path)
    assert json.loads(aside(path.read_text))["format"] == "lantern-chats"
    page.evaluate(_WIPE)
    page.reload()
    expect(page.locator(".empty")).to_be_visible()
    assert kept(page)["chats"] == []
    expect(page.locator(".chats .list li")).to_have_count(0)
    page.locator(".chats input[type=file]").set_input_files(path)
    expect(page.get_by_text("1 chats were read.")).to_be_visible()
    after = kept(page)
    assert _sorted(after["messages"]) == _sorted(before["messages"])
    assert after["chats"] == before["chats"]
    page.locator(".chats input[type=file]").set_input_files(path)  # a second time changes nothing
    expect(page.get_by_text("1 chats were read.")).to_be_visible()  # told anew: the choice took the text away
    expect(page.locator(".chats .list li")).to_have_count(1)
    assert _sorted(kept(page)["messages"]) == _sorted(before["messages"])


def _sorted(rows: list[Any]) -> list[Any]:
    return sorted(rows, key=lambda row: str(row["id"]))


@pytest.mark.parametrize(
    "content",
    [
        "no JSON",
        '{"format": "lantern-chats", "version": 2, "chats": []}',
        '{"format": "other"}',
        json.dumps({"format": "lantern-chats", "version": 1, "chats": [ENDLESS]}),
    ],
)
def test_a_file_that_is_no_export_is_refused_whole(page: Page, content: str) -> None:
    file: Any = {"name": "x.json", "mimeType": "application/json", "buffer": content.encode()}
    page.locator(".chats input[type=file]").set_input_files(file)
    expect(page.get_by_text("This file holds no chats of this page.")).to_be_visible()
    assert kept(page)["chats"] == []


def test_a_store_that_is_forbidden_is_told_and_the_chat_goes_on(page: Page) -> None:
    page.add_init_script(
        "Object.defineProperty(window, 'indexedDB', { get() { throw new DOMException('no', 'SecurityError'); } })"
    )
    page.reload()
    expect(page.get_by_text("This browser keeps no more chats")).to_be_visible()
    answer_with(page, "an answer")
    ask_and_wait(page, "a question")
    expect_names(page, "a question")


def test_a_store_that_is_full_is_told_and_the_answer_stays_on_the_screen(
    browser: Browser, server: RunningServer
) -> None:
    context = browser.new_context(locale="en")
    page = context.new_page()
    session = context.new_cdp_session(page)
    session.send("Storage.overrideQuotaForOrigin", {"origin": server.root_url, "quotaSize": 100_000})
    page.goto(server.root_url)
    answer_with(page, "kept")
    ask_and_wait(page, "a question")
    answer_with(page, "far too long " * 20_000)
    page.get_by_role("button", name="Regenerate").click()
    expect(page.get_by_text("This browser keeps no more chats")).to_be_visible()
    expect(page.locator(".message.assistant .text")).to_contain_text("far too long")
    page.reload()
    expect(page.locator(".message.user .text")).to_have_text("a question")
    assert "kept" in [one["content"] for one in kept(page)["messages"]]
    context.close()


def test_two_tabs_that_go_on_with_one_chat_make_two_branches_and_both_stay(page: Page, server: RunningServer) -> None:
    answer_with(page, "start")
    ask_and_wait(page, "where both begin")
    other = page.context.new_page()
    other.goto(server.root_url)
    expect(other.locator(".message.assistant .text")).to_have_text("start")
    answer_with(other, "of the other tab")
    answer_with(page, "of this tab")
    ask_and_wait(other, "asked in the other tab")
    expect(page.locator(".message")).to_have_count(4)  # this tab shows what the other one did
    expect(page.locator(".message.assistant .text").last).to_have_text("of the other tab")
    page.get_by_role("button", name="Edit").last.click()
    ask_and_wait(page, "asked in this tab")
    expect(other.locator(".message.user .versions")).to_have_text("‹1 of 2›")
    expect(other.locator(".message.user .text").last).to_have_text("asked in the other tab")  # where it is read
    for tab in (page, other):
        tab.reload()
        expect(tab.locator(".message.user .versions")).to_contain_text("of 2")
    assert len(kept(page)["messages"]) == 6
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Delete chat").click()
    expect(other.locator(".chats .list li")).to_have_count(0)
    assert kept(page)["messages"] == []


def test_a_tab_whose_store_became_newer_says_so_and_writes_nothing_into_it(page: Page) -> None:
    answer_with(page, "an answer")
    ask_and_wait(page, "a question")
    newer = page.context.new_page()
    newer.goto(page.url.rstrip("/") + "/health")
    newer.evaluate("""() => new Promise((resolve, reject) => {
        const request = indexedDB.open('lantern', 99);
        request.onsuccess = () => { request.result.close(); resolve(); };
        request.onerror = () => reject(request.error);
    })""")
    expect(page.get_by_text("A newer version of this page is open")).to_be_visible()
    ask_and_wait(page, "asked by the old tab")  # it works on, and keeps nothing
    page.reload()
    expect(page.get_by_text("A newer version of this page is open")).to_be_visible()
    assert [one["content"] for one in kept(page)["messages"] if one["role"] == "user"] == ["a question"]

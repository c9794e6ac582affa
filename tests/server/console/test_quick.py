"""A quick reader: the next act comes while the page still works at the last one, and neither is lost or doubled."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest

from tests.server.console.driver import NO_PLAYWRIGHT

pytest.importorskip("playwright", reason=NO_PLAYWRIGHT)

from playwright.sync_api import Page, Route, expect

from tests.conftest import RunningServer
from tests.server.console.cable import Cable
from tests.server.console.conftest import ADMIN_KEY, OpenView
from tests.server.console.keeping import OLD_CHATS, kept
from tests.server.console.test_chat import answer_with, answer_without_end, ask, wait_for_idle
from tests.server.console.test_composer import NOTES, PICTURE, asked
from tests.server.console.test_history import ask_and_wait, expect_names


class Held:
    """Requests that are held until they are released."""

    def __init__(self, page: Page, url: str) -> None:
        self._page, self._is_released = page, False
        self.routes: list[Route] = []
        page.route(url, self._take)

    def wait(self) -> None:
        while not self.routes:
            self._page.wait_for_timeout(5)  # which lets the requests arrive

    def release(self) -> None:
        """Let requests through from now on; the route stays, since those that it holds would end with it."""
        self.wait()
        self._is_released = True
        for route in self.routes:
            route.continue_()

    def _take(self, route: Route) -> None:
        if self._is_released:
            route.continue_()
        else:
            self.routes.append(route)


def wait_for_questions(page: Page, count: int) -> list[Any]:
    """Return the questions that are kept, once there are so many with an answer each."""
    while True:
        messages = kept(page)["messages"]
        if len([one for one in messages if one["role"] == "assistant" and one["content"]]) >= count:
            return [one for one in messages if one["role"] == "user"]
        page.evaluate("new Promise(requestAnimationFrame)")


def test_a_question_that_waits_for_the_models_stays_in_the_chat_it_was_asked_in(page: Page) -> None:
    answer_with(page, "an answer")
    ask_and_wait(page, "first")
    models = Held(page, "**/v1/models")
    page.reload()
    expect(page.locator(".message")).to_have_count(2)
    ask(page, "second")
    page.get_by_role("button", name="New chat").click()
    models.release()
    expect(page.locator(".empty")).to_be_visible()
    questions = wait_for_questions(page, 2)
    assert {one["content"] for one in questions} == {"first", "second"}
    assert len({one["chat"] for one in questions}) == 1
    expect(page.get_by_label("Your message")).to_have_value("")


def test_what_is_typed_after_a_question_that_waits_stays(page: Page) -> None:
    answer_with(page, "an answer")
    models = Held(page, "**/v1/models")
    page.reload()
    ask(page, "one")
    page.keyboard.press("Enter")  # a second time, which must not ask twice
    page.keyboard.type("and two")
    models.release()
    expect(page.locator(".message.user .text")).to_have_text("one")
    expect(page.get_by_label("Your message")).to_have_value("and two")
    assert len(wait_for_questions(page, 1)) == 1


def test_an_answer_that_is_made_again_before_the_models_are_known_asks_the_model_of_its_chat(page: Page) -> None:
    answer_with(page, "an answer")
    ask_and_wait(page, "first")
    requests = asked(page)
    models = Held(page, "**/v1/models")
    page.reload()
    page.get_by_role("button", name="Regenerate").click()
    expect(page.locator(".versions")).to_contain_text("2 of 2")
    models.release()
    assert [one["model"] for one in requests] == ["smollm2-135m-instruct"]


@pytest.mark.parametrize("trouble", ["a picture", "no network"])
def test_a_message_whose_file_cannot_be_taken_is_not_sent_without_it(page: Page, trouble: str) -> None:
    requests = asked(page)
    reader = Held(page, "**/files.js")
    page.locator(".ask input[type=file]").set_input_files(PICTURE if trouble == "a picture" else NOTES)
    ask(page, "How large?")
    if trouble == "a picture":
        reader.release()
    else:
        reader.wait()
        reader.routes[0].abort()
    said = "cat.png is not text" if trouble == "a picture" else "cannot be reached"
    expect(page.get_by_role("alert")).to_contain_text(said)
    expect(page.get_by_label("Your message")).to_have_value("How large?")
    assert requests == []
    assert kept(page)["messages"] == []


def test_options_that_are_opened_and_a_question_that_is_asked_before_the_chats_are_there(page: Page) -> None:
    answer_with(page, "an answer")
    ask_and_wait(page, "first")
    page.evaluate("(name) => localStorage.setItem(name, '[]')", OLD_CHATS)
    store = Held(page, "**/moved.js")
    page.reload()
    page.get_by_text("Options").click()
    ask(page, "second")
    store.wait()
    expect(page.locator(".message")).to_have_count(0)
    store.release()
    expect(page.locator(".message.user .text")).to_have_text(["first", "second"])
    expect(page.get_by_label("Temperature")).to_be_visible()
    assert len(wait_for_questions(page, 2)) == 2


def test_options_that_cannot_be_loaded_are_told(page: Page) -> None:
    page.route("**/settings.js", lambda route: route.abort())
    page.reload()
    page.get_by_text("Options").click()
    expect(page.get_by_role("alert")).to_contain_text("cannot be reached")


def test_what_needs_no_device_works_without_it(page: Page) -> None:
    """Nothing of it was used before: its modules were loaded once the page was ready."""
    answer_with(page, "an answer")
    late = [f"**/console/{name}.js" for name in ("rename", "search", "settings", "transfer")]
    loaded: list[str] = []
    page.on("requestfinished", lambda request: loaded.append(request.url))
    page.reload()
    ask_and_wait(page, "first")
    while sum(url.endswith(name[2:]) for url in loaded for name in late) < len(late):
        page.wait_for_timeout(5)  # which lets the requests end
    page.context.set_offline(True)
    page.get_by_role("button", name="Rename chat first").click()
    page.get_by_label("New name").fill("second")
    page.keyboard.press("Enter")
    expect_names(page, "second")
    page.get_by_label("Search chats").fill("FIRST")
    expect(page.locator(".chats .list small")).to_have_text("first")
    page.get_by_text("Options").click()
    expect(page.get_by_label("Temperature")).to_be_visible()
    with page.expect_download():
        page.get_by_role("button", name="Export").click()


def test_a_draft_comes_back_after_an_edit(page: Page) -> None:
    answer_with(page, "an answer")
    ask_and_wait(page, "first")
    text = page.get_by_label("Your message")
    text.fill("a draft")
    page.get_by_role("button", name="Edit").click()
    expect(text).to_have_value("first")
    page.get_by_role("button", name="Cancel").click()
    expect(text).to_have_value("a draft")
    page.get_by_role("button", name="Edit").click()
    ask_and_wait(page, "first, in other words")
    expect(text).to_have_value("a draft")
    expect(page.locator(".message.user .versions")).to_contain_text("2 of 2")


_DELETE_AND_ASK = """() => {
    window.confirm = () => true;
    document.querySelector('.chats .list li button:last-child').click();
    const text = document.querySelector('[name=question]');
    text.value = 'second';
    text.form.requestSubmit();
}"""


def test_a_question_that_is_asked_while_its_chat_is_deleted_begins_another(page: Page) -> None:
    answer_with(page, "an answer")
    ask_and_wait(page, "first")
    page.evaluate(_DELETE_AND_ASK)
    expect_names(page, "second")
    expect(page.locator(".message.user .text")).to_have_text("second")
    assert [one["content"] for one in wait_for_questions(page, 1)] == ["second"]


def test_a_second_chat_is_renamed_while_the_first_ones_form_is_open(page: Page) -> None:
    answer_with(page, "an answer")
    for name in ("first", "second"):
        page.get_by_role("button", name="New chat").click()
        ask_and_wait(page, name)
    expect_names(page, "second", "first")
    page.get_by_role("button", name="Rename chat first").click()
    expect(page.get_by_label("New name")).to_have_value("first")
    page.get_by_role("button", name="Rename chat second").click()
    expect(page.get_by_label("New name")).to_have_value("second")
    page.get_by_label("New name").fill("third")
    page.keyboard.press("Enter")
    expect_names(page, "third", "first")


def test_two_files_of_chats_that_are_chosen_one_after_the_other_are_both_read(page: Page) -> None:
    transfer = Held(page, "**/transfer.js")
    page.reload()
    for name in ("a", "b"):
        chat: dict[str, Any] = {"id": name, "name": f"chat {name}", "model": "", "system": "", "settings": {}}
        chat |= {"leaf": None, "at": 1, "messages": []}
        content = json.dumps({"format": "lantern-chats", "version": 1, "chats": [chat]})
        file: Any = {"name": f"{name}.json", "mimeType": "application/json", "buffer": content.encode()}
        page.locator(".chats input[type=file]").set_input_files(file)
    transfer.release()
    expect(page.locator(".chats .list li")).to_have_count(2)


def test_an_answer_that_is_stopped_before_the_device_has_named_it_is_ended_there(
    page: Page, server: RunningServer
) -> None:
    with Cable(server.service.port) as cable:
        page.goto(cable.url)
        expect(page.locator("select[name=model] option").first).to_be_attached()
        answer_without_end(page)
        cable.hold()
        with page.expect_request("**/v1/responses"):
            ask(page, "Count.")
        while not _is_running(server):
            page.wait_for_timeout(5)
        page.get_by_role("button", name="Stop").click()
        cable.release()
        expect(page.locator(".message.assistant")).to_contain_text("Stopped.")
        wait_for_idle(server)


def _is_running(server: RunningServer) -> bool:
    engines = httpx2.get(f"{server.root_url}/health", timeout=60).json()["engines"].values()
    return any(engine["num_running"] for engine in engines)


def test_a_form_that_asks_for_a_key_stays_when_something_else_is_told(
    open_view: OpenView, kept_server: RunningServer
) -> None:
    page = open_view(kept_server, "chat", key="sk-wrong")
    page.add_init_script(
        "Object.defineProperty(window, 'indexedDB', { get() { throw new DOMException('no', 'SecurityError'); } })"
    )
    page.reload()
    expect(page.get_by_text("This browser keeps no more chats")).to_be_visible()
    expect(page.get_by_text("wrong or revoked")).to_be_visible()
    page.locator(".ask input[type=file]").set_input_files(PICTURE)
    expect(page.get_by_text("cat.png is not text")).to_be_visible()
    page.get_by_label("Key", exact=True).fill(ADMIN_KEY)
    page.get_by_role("button", name="Use this key").click()
    expect(page.locator("select[name=model] option").first).to_be_attached()


def test_a_link_with_a_key_that_is_opened_in_a_page_that_is_there_brings_the_models(
    open_view: OpenView, kept_server: RunningServer
) -> None:
    page = open_view(kept_server, "chat", key="sk-wrong")
    expect(page.get_by_text("wrong or revoked")).to_be_visible()
    page.evaluate("(key) => { location.hash = `#key=${key}`; }", ADMIN_KEY)
    expect(page.locator("select[name=model] option").first).to_be_attached()
    expect(page.get_by_text("wrong or revoked")).to_be_hidden()
    assert "key=" not in page.url


def test_a_key_is_shown_without_its_qr_code_and_after_another_view(
    open_view: OpenView, kept_server: RunningServer
) -> None:
    page = open_view(kept_server, "keys")
    page.route("**/admin/qr", lambda route: route.abort())
    made = {"id": "0" * 12, "name": "new", "role": "inference", "rate": None, "created": 0, "last_used": None}
    secret = f"sk-lantern-{'k' * 43}"
    page.route(
        "**/admin/keys",
        lambda route: (
            route.fulfill(status=201, json={**made, "key": secret})
            if route.request.method == "POST"
            else route.fallback()
        ),
    )
    page.get_by_label("Name").fill("new")
    page.get_by_role("button", name="Make the key").click()
    expect(page.get_by_text(secret)).to_be_visible()
    page.get_by_role("link", name="Chat", exact=True).click()
    expect(page.get_by_label("Your message")).to_be_visible()
    page.get_by_role("link", name="Keys", exact=True).click()
    expect(page.get_by_text(secret)).to_be_visible()
    page.get_by_role("button", name="I have copied it").click()
    expect(page.get_by_text(secret)).to_have_count(0)


def test_what_is_typed_beside_a_model_stays_when_another_one_changes(
    open_view: OpenView, kept_server: RunningServer
) -> None:
    page = open_view(kept_server, "chat")

    def other_state(route: Route) -> None:
        headers = {**route.request.headers}
        told = route.fetch(url=f"{kept_server.root_url}/admin/models", method="GET", headers=headers).json()
        told["models"][1]["loaded"] = not told["models"][1]["loaded"]
        route.fulfill(json=told)

    page.route("**/admin/models/*/*load", other_state)
    page.get_by_role("link", name="Models", exact=True).click()
    cards = page.locator(".card")
    expect(cards).to_have_count(2)
    cards.nth(0).get_by_text("Other names").click()
    cards.nth(0).get_by_label("Another name").fill("half a na")
    act = cards.nth(1).get_by_role("button", name="oad: ")
    before = act.inner_text()
    act.click()
    expect(act).not_to_have_text(before)
    expect(cards.nth(0).get_by_label("Another name")).to_have_value("half a na")


def test_figures_that_come_twice_count_once(page: Page) -> None:
    times = page.evaluate("""async () => {
        const { Live } = await import('/console/admin/live.js');
        const live = new Live(() => {});
        for (const at_s of [[1, 2], [3], [3], [2, 3, 4]]) live.extend({ interval_s: 2, at_s, running: [...at_s] });
        return [live.history.at_s, live.history.running];
    }""")
    assert times == [[1, 2, 3, 4]] * 2

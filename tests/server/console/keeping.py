"""The chats as the page keeps them in the browser's database."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Page

_READ = """async () => {
    const database = await new Promise((resolve, reject) => {
        const request = indexedDB.open('lantern');
        request.onsuccess = () => resolve(request.result);
        request.onerror = () => reject(request.error);
    });
    const all = (name) => new Promise((resolve) => {
        database.transaction(name).objectStore(name).getAll().onsuccess = (event) => resolve(event.target.result);
    });
    const [chats, messages] = [await all('chats'), await all('messages')];
    database.close();
    return { chats, messages };
}"""


def kept(page: Page) -> dict[str, list[Any]]:
    """Return every chat and every message that is kept."""
    told: dict[str, list[Any]] = page.evaluate(_READ)
    return told


def kept_answer(page: Page) -> str:
    """Return the last answer of the latest chat."""
    told = kept(page)
    latest = max(told["chats"], key=lambda chat: float(chat["at"]))
    answers = [one for one in told["messages"] if (one["chat"], one["role"]) == (latest["id"], "assistant")]
    return str(max(answers, key=lambda one: float(one["at"]))["content"])


def wait_for_kept_answer(page: Page) -> None:
    """Wait until some of the last answer is kept; a predicate of Playwright may not be asynchronous."""
    while not any(one["role"] == "assistant" and one["content"] for one in kept(page)["messages"]):
        page.evaluate("new Promise(requestAnimationFrame)")

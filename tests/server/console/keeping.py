"""The chats as the page keeps them in the browser's database."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Page

OLD_CHATS = "lantern.chats.1"
"""The entry of localStorage in which the page before kept its chats."""

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


def old_chat(number: int, *, num_messages: int = 4, size: int = 20) -> dict[str, Any]:
    """A chat as the page before kept it in localStorage."""
    messages = [
        {"role": "user" if i % 2 == 0 else "assistant", "content": f"message {i} of chat {number} " + "x" * size}
        for i in range(num_messages)
    ]
    settings = {"model": "smollm2-135m-instruct", "system": "Be short.", "temperature": "0.5"}
    return {"id": f"chat{number}", "messages": messages, "at": 1000 + 100 * number, **settings}

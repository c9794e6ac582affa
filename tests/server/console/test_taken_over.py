"""Chats of an earlier page or a file are taken over: whole, at once, and also if the browser is killed meanwhile."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from pathlib import Path

import pytest

from tests.server.console.driver import NO_PLAYWRIGHT

pytest.importorskip("playwright", reason=NO_PLAYWRIGHT)

from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.conftest import RunningServer
from tests.server.console.aside import aside
from tests.server.console.conftest import CHROMIUM
from tests.server.console.keeping import OLD_CHATS, kept, old_chat


def test_chats_of_the_page_before_are_copied_counted_and_stay_where_they_were(page: Page) -> None:
    text = json.dumps([old_chat(2), old_chat(1)])
    page.evaluate("([name, text]) => localStorage.setItem(name, text)", [OLD_CHATS, text])
    page.reload()
    expect(page.locator(".chats .list li")).to_have_count(2)
    expect(page.locator(".message")).to_have_count(4)
    told = kept(page)
    assert [chat["settings"] for chat in told["chats"]] == [{"temperature": "0.5"}] * 2
    assert len(told["messages"]) == 8
    assert page.evaluate("(name) => localStorage.getItem(name)", OLD_CHATS) == text
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Delete chat").first.click()
    expect(page.locator(".chats .list li")).to_have_count(1)
    longer = {**old_chat(1, num_messages=6), "at": 5000}  # a tab with the page before went on
    page.evaluate("([name, text]) => localStorage.setItem(name, text)", [OLD_CHATS, json.dumps([longer, old_chat(2)])])
    page.reload()
    expect(page.locator(".message")).to_have_count(6)
    assert [chat["id"] for chat in kept(page)["chats"]] == ["chat1"]  # and the deleted one did not come back


_TURNS = """async ([module, call, text]) => {
    const moves = await import(`/console/${module}.js`);
    const waiting = [], later = (value) => new Promise((resolve) => waiting.push(() => resolve(value)));
    const table = () => {
        const rows = new Map();
        return { rows, get: (id) => later(rows.get(id)), put: (row) => later(rows.set(row.id, row)),
            of: (chat) => later([...rows.values()].filter((row) => row.chat === chat)) };
    };
    const tables = { chats: table(), messages: table(), marks: table() };
    const store = { change: async (work) => { await work(tables); return true; } };
    let isDone = false, turns = 0;
    const file = new Blob([text]);
    const moved = call === 'movedFrom' ? moves.movedFrom(tables, 'x', text) : moves.importChats(store, file);
    moved.finally(() => { isDone = true; });
    while (!isDone) {
        await new Promise((resolve) => setTimeout(resolve));
        turns += waiting.length > 0;
        for (const answer of waiting.splice(0)) answer();
    }
    await moved;
    return [tables.chats.rows.size, tables.messages.rows.size, turns];
}"""


@pytest.mark.parametrize("way", ["an earlier page", "a file"])
def test_chats_are_taken_over_without_a_wait_for_each_message(page: Page, way: str) -> None:
    """A wait for each would keep a slow machine busy for minutes, with an empty list meanwhile."""
    many = [old_chat(number, num_messages=40) for number in range(50)]
    if way == "a file":
        for chat in many:
            chat |= {"name": "", "settings": {}, "leaf": None}
            lines = enumerate(chat["messages"])
            chat["messages"] = [{**m, "id": f"{chat['id']}-{i}", "parent": None, "at": i} for i, m in lines]
        text = json.dumps({"format": "lantern-chats", "version": 1, "chats": many})
        told = page.evaluate(_TURNS, ["transfer", "importChats", text])
    else:
        told = page.evaluate(_TURNS, ["moved", "movedFrom", json.dumps(many)])
    assert told[:2] == [50, 2000]
    assert told[2] <= 6


def _processes(profile: Path) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if str(profile).encode() in command:
                found.append(int(entry.name))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("delay_ms", [0, 20, 60, 150])
def test_a_browser_that_is_killed_while_it_copies_the_chats_has_them_all_afterwards(
    browser: Browser, server: RunningServer, tmp_path: Path, delay_ms: int
) -> None:
    def opened() -> BrowserContext:
        return browser.browser_type.launch_persistent_context(
            tmp_path / "profile", executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"], locale="en"
        )

    many = [old_chat(number, num_messages=40, size=100) for number in range(300)]
    context = opened()
    page = context.new_page()
    page.goto(f"{server.root_url}/health")
    text = json.dumps(many)
    page.evaluate("([name, text]) => localStorage.setItem(name, text)", [OLD_CHATS, text])
    page.close()  # which lets the browser write it down; else that may take minutes, and its end does not wait for it
    aside(lambda: _wait_until_written(tmp_path / "profile/Default/Local Storage/leveldb", len(text)))
    context.close()
    context = opened()
    page = context.new_page()
    page.goto(server.root_url, wait_until="commit")
    page.evaluate("(delay) => new Promise((resolve) => setTimeout(resolve, delay))", delay_ms)
    aside(lambda: _kill_all(tmp_path / "profile"))
    context = opened()
    page = context.new_page()
    page.goto(server.root_url)
    expect(page.locator(".chats .list li")).to_have_count(300)
    assert len(kept(page)["messages"]) == 300 * 40
    assert len(json.loads(page.evaluate("(name) => localStorage.getItem(name)", OLD_CHATS))) == 300
    context.close()


def _wait_until_written(folder: Path, num_bytes: int) -> None:
    """Return once a folder has so many bytes."""
    end_s = time.monotonic() + 60
    while sum(path.stat().st_size for path in folder.iterdir()) < num_bytes:
        assert time.monotonic() < end_s, "the browser did not write down what the page keeps"
        time.sleep(0.05)


def _kill_all(profile: Path) -> None:
    """Kill a browser, and return once no process of it is left: one that still dies holds the lock of its profile."""
    while processes := _processes(profile):
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.01)

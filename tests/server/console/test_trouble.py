"""Trouble while the page is open: power cuts, revoked keys, answers out of any proportion, a board without a clock."""

from __future__ import annotations

import re
from pathlib import Path

import httpx2
import pytest

from tests.server.console.driver import NO_PLAYWRIGHT

pytest.importorskip("playwright", reason=NO_PLAYWRIGHT)

from playwright.sync_api import Page, Route, expect

from appliance.home import Home
from tests.conftest import RunningServer
from tests.server.admin.clients import KEY
from tests.server.console.aside import aside
from tests.server.console.conftest import ADMIN_KEY, OpenView
from tests.server.console.keeping import kept_answer, wait_for_kept_answer
from tests.server.console.processes import Device
from tests.server.console.test_chat import LONG_MS, answer_with, answer_without_end, ask, wait_for_text


@pytest.mark.slow
def test_a_device_that_loses_power_while_it_answers_takes_nothing_of_what_was_seen(
    open_view: OpenView, kept_home: Home, tmp_path: Path
) -> None:
    device = Device(kept_home.root)
    aside(device.start)
    try:
        page = open_view(device.server, "chat", key=KEY)
        answer_without_end(page)
        ask(page, "Count.")
        wait_for_text(page)
        wait_for_kept_answer(page)
        aside(device.kill)
        expect(page.get_by_text("The connection was lost")).to_be_visible(timeout=LONG_MS)
        seen = page.locator(".message.assistant > div").first.inner_text()
        aside(device.start)
        expect(page.locator(".message.assistant .notice")).to_contain_text("broke before", timeout=LONG_MS)
        assert kept_answer(page).startswith(seen[:20])
        page.unroute_all()
        ask(page, "Say hello.")
        expect(page.locator(".message.assistant")).to_have_count(2)
        expect(page.locator(".message.assistant").last.get_by_role("button", name="Regenerate")).to_be_visible(
            timeout=LONG_MS
        )
        assert kept_answer(page)
    finally:
        aside(device.stop)


def test_a_key_that_is_revoked_while_an_answer_runs_is_told_and_asked_for(
    open_view: OpenView, kept_server: RunningServer
) -> None:
    headers = {"authorization": f"Bearer {ADMIN_KEY}"}
    made = httpx2.post(
        f"{kept_server.root_url}/admin/keys", headers=headers, json={"name": "lent", "role": "inference"}
    )
    page = open_view(kept_server, "chat", key=made.json()["key"])
    answer_without_end(page)
    ask(page, "Count.")
    wait_for_kept_answer(page)
    assert httpx2.delete(f"{kept_server.root_url}/admin/keys/lent", headers=headers).status_code == 200
    page.reload()  # the answer is followed anew, with a key that is no more
    expect(page.locator(".message.assistant .notice")).to_contain_text("wrong or revoked", timeout=LONG_MS)
    expect(page.locator(".message.assistant > div").first).to_contain_text(re.compile(r"\w"))
    page.get_by_label("Key", exact=True).fill(ADMIN_KEY)
    page.get_by_role("button", name="Use this key").click()
    page.unroute_all()
    answer_with(page, "an answer with the other key")
    page.get_by_role("button", name="Regenerate").click()
    expect(page.locator(".message.assistant .text")).to_have_text("an answer with the other key")


@pytest.mark.parametrize(
    ("piece", "count", "selector", "most"),
    [
        ("no end of this line ", 5_000_000 // 20, "*", 10),
        ("cell | " * 10_000 + "\n" + "--- | " * 10_000 + "\n", 1, "td, th", 100),
        ("\u202eturned \u2066and \ud83d half \u200f", 1000, "*", 10),
    ],
    ids=["5 MB of one line", "10,000 columns", "marks that turn text, half an emoji"],
)
def test_an_answer_out_of_proportion_is_shown_whole(
    page: Page, piece: str, count: int, selector: str, most: int
) -> None:
    shown, nodes = page.evaluate(
        """async ([units, count, selector]) => {
            const piece = String.fromCharCode(...units.slice(0, 60000)) + String.fromCharCode(...units.slice(60000));
            const { Markdown } = await import('/console/markdown.js');
            const [frame, parent] = [document.createElement('div'), document.createElement('div')];
            frame.append(parent);
            document.querySelector('.lines').append(frame);
            const markdown = new Markdown(parent);
            for (let i = 0; i < count; i += 1) markdown.add(piece);
            markdown.end();
            return [frame.textContent.length, frame.querySelectorAll(selector).length];
        }""",
        [
            [
                int.from_bytes(piece.encode("utf-16-le", "surrogatepass")[i : i + 2], "little")
                for i in range(0, 2 * len(piece), 2)
            ],
            count,
            selector,
        ],
    )
    assert nodes <= most
    words = ("cell" in piece and 4 * 10_000) or len(piece.strip()) * count
    assert shown >= words


def test_a_board_without_a_clock_shows_no_dates_of_1970(open_view: OpenView, kept_server: RunningServer) -> None:
    def long_ago(route: Route) -> None:
        told = route.fetch().json()
        route.fulfill(json={"keys": [{**key, "created": 60, "last_used": 90} for key in told["keys"]]})

    headers = {"authorization": f"Bearer {ADMIN_KEY}"}
    httpx2.post(f"{kept_server.root_url}/admin/keys", headers=headers, json={"name": "early", "role": "inference"})
    page = open_view(kept_server, "chat")
    page.route("**/admin/keys", long_ago)
    page.get_by_role("link", name="Keys").click()
    expect(page.get_by_role("row", name=re.compile("early"))).to_contain_text("before the clock was set")
    expect(page.get_by_text("1970")).to_have_count(0)


def test_a_question_that_waits_tells_why(page: Page) -> None:
    """Others hold every place, then the prompt is read, then the answer comes."""
    held: list[Route] = []
    page.route("**/v1/responses", lambda route: held.append(route))
    told = {"status": "ok", "engines": {"m": {"num_waiting": 3}}}
    page.route("**/health", lambda route: route.fulfill(json=told))
    ask(page, "x")
    expect(page.get_by_text("3 requests wait for one")).to_be_visible()
    told["engines"] = {"m": {"num_waiting": 0}}
    expect(page.get_by_text("Reading the prompt")).to_be_visible()
    held[0].abort()
    expect(page.locator(".message.assistant .notice")).to_contain_text("cannot be reached")
    expect(page.get_by_text("Reading the prompt")).to_be_hidden()

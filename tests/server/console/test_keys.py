"""The keys view: a key is made and shown once, used, given another rate, and revoked."""

from __future__ import annotations

import re

import httpx2
import pytest

from tests.server.console.driver import NO_PLAYWRIGHT

pytest.importorskip("playwright", reason=NO_PLAYWRIGHT)

from playwright.sync_api import Browser, Page, expect

from tests.conftest import RunningServer
from tests.server.console.conftest import ADMIN_KEY, OpenView
from tests.server.console.test_chat import answer_without_end, ask

LONG_MS = 60_000


def make(page: Page, name: str, *, rate: int | None = None) -> str:
    """Make a key, and return its secret as the page shows it."""
    form = page.locator("form", has=page.get_by_role("button", name="Make the key"))
    form.get_by_label("Name").fill(name)
    if rate is not None:
        form.get_by_label("Requests a minute").fill(str(rate))
    form.get_by_role("button", name="Make the key").click()
    card = page.get_by_role("region", name=f"The key {name}")
    expect(card).to_be_focused()
    return card.locator("code").inner_text().strip()


def remove_all_keys(server: RunningServer) -> None:
    headers = {"authorization": f"Bearer {ADMIN_KEY}"}
    for key in httpx2.get(f"{server.root_url}/admin/keys", headers=headers).json()["keys"]:
        httpx2.delete(f"{server.root_url}/admin/keys/{key['name']}", headers=headers)


@pytest.fixture
def page(open_view: OpenView, kept_server: RunningServer) -> Page:
    remove_all_keys(kept_server)
    page = open_view(kept_server, "keys")
    expect(page.get_by_text("None", exact=True)).to_be_visible()
    return page


def test_a_key_is_shown_once_and_used_and_changed_and_revoked(page: Page, kept_server: RunningServer) -> None:
    secret = make(page, "kitchen-phone", rate=30)
    assert re.fullmatch(r"sk-lantern-[\w-]{43}", secret)
    expect(page.get_by_role("img", name=re.compile("QR code"))).to_be_visible()
    row = page.get_by_role("row", name=re.compile("kitchen-phone"))
    expect(row).to_contain_text("30/min")
    expect(row).to_contain_text("never")
    headers = {"authorization": f"Bearer {secret}"}
    assert httpx2.get(f"{kept_server.root_url}/v1/models", headers=headers).status_code == 200
    page.get_by_role("button", name="I have copied it").click()
    row.get_by_text("Change rate").click()
    row.get_by_label("Requests a minute").fill("500")
    row.get_by_role("button", name="Save").click()
    expect(row).to_contain_text("500/min")
    expect(row).not_to_contain_text("never")
    assert secret not in page.content()
    assert secret not in page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, location.href])")
    row.get_by_role("button", name="Revoke: kitchen-phone").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    assert httpx2.get(f"{kept_server.root_url}/v1/models", headers=headers).status_code == 200
    row.get_by_role("button", name="Revoke: kitchen-phone").click()
    page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
    expect(page.get_by_text("The key kitchen-phone is revoked.")).to_be_visible()
    expect(row).to_have_count(0)
    assert httpx2.get(f"{kept_server.root_url}/v1/models", headers=headers).status_code == 401


def test_a_name_that_is_taken_is_told_and_nothing_is_lost(page: Page) -> None:
    make(page, "phone")
    page.get_by_role("button", name="I have copied it").click()
    form = page.locator("form", has=page.get_by_role("button", name="Make the key"))
    form.get_by_label("Name").fill("phone")
    form.get_by_role("button", name="Make the key").click()
    expect(page.locator(".notice.bad")).to_contain_text("There is a key 'phone' already")
    expect(form.get_by_label("Name")).to_have_value("phone")


def test_the_link_of_a_qr_code_brings_the_key_along_and_leaves_no_trace_of_it(
    browser: Browser, page: Page, kept_server: RunningServer
) -> None:
    secret = make(page, "phone")
    context = browser.new_context(locale="en")
    phone = context.new_page()
    phone.goto(f"{kept_server.root_url}/#key={secret}")
    expect(phone.locator("select[name=model] option").first).to_be_attached()
    assert secret not in phone.url
    assert phone.evaluate("sessionStorage.getItem('lantern.key')") == secret
    context.close()


def test_a_key_for_inference_is_told_that_it_may_not_and_asked_for_another(
    open_view: OpenView, page: Page, kept_server: RunningServer
) -> None:
    secret = make(page, "guest")
    guest = open_view(kept_server, "keys", key=secret)
    expect(guest.get_by_role("alert").first).to_contain_text("not allowed to do that")
    guest.get_by_label("Key", exact=True).fill(ADMIN_KEY)
    guest.get_by_role("button", name="Use this key").click()
    expect(guest.get_by_role("row", name=re.compile("guest"))).to_be_visible()


def test_a_key_that_is_revoked_while_its_answer_runs_keeps_the_answer_and_asks_for_another(
    open_view: OpenView, page: Page, kept_server: RunningServer
) -> None:
    secret = make(page, "guest")
    guest = open_view(kept_server, "chat", key=secret)

    answer_without_end(guest, max_output_tokens=300)
    ask(guest, "Count.")
    shown = guest.locator(".message.assistant > div").first
    expect(shown).to_contain_text(re.compile(r"\w{2}"), timeout=LONG_MS)
    page.get_by_role("button", name="Revoke: guest").click()
    page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
    expect(page.get_by_text("The key guest is revoked.")).to_be_visible()
    expect(guest.get_by_role("button", name="Regenerate")).to_be_visible(timeout=LONG_MS)
    before = guest.locator(".message.assistant .text").first.inner_text()
    assert before
    ask(guest, "Go on.")
    expect(guest.locator(".message.assistant .notice").last).to_contain_text("wrong or revoked")
    expect(guest.get_by_label("Key", exact=True)).to_be_visible()
    assert guest.locator(".message.assistant .text").first.inner_text() == before

"""The device view: its figures and plots, its diagnosis, its log, the update, and a restart while the page is open."""

from __future__ import annotations

import hashlib
import json
import os
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
from tests.server.console.conftest import OpenView, take_picture
from tests.server.console.processes import served_by_a_process
from tests.server.test_safe_mode import safe_server

LONG_MS = 60_000


@pytest.fixture
def page(open_view: OpenView, kept_server: RunningServer) -> Page:
    page = open_view(kept_server, "device")
    expect(page.get_by_role("heading", name="The last ten minutes")).to_be_visible()
    return page


def test_the_figures_are_told_in_words_in_a_plot_and_in_a_table(page: Page) -> None:
    memory = page.locator("figure", has_text="Free memory")
    expect(memory.get_by_role("img")).to_have_attribute(
        "aria-label", re.compile(r"^Free memory: [\d.]+ GB\. Mean .* over \d+ min$")
    )
    assert memory.locator("path.line").get_attribute("d").startswith("M")  # type: ignore[union-attr]
    memory.get_by_text("As a table").click()
    expect(memory.get_by_role("row").nth(1)).to_contain_text("GB")
    expect(page.get_by_role("cell", name="0 of 4 slots")).to_be_visible()
    expect(page.locator(".facts").first).to_contain_text(re.compile(r"lantern-[0-9a-f]{8}\.local"))


def test_a_board_that_is_hot_shows_its_plot_and_how_long_it_was_slowed(page: Page) -> None:
    def hot(route: Route) -> None:
        told = route.fetch().json()
        num = len(told["history"]["at_s"])
        told["history"] |= {"temperature_c": [81.5] * num, "throttled": [True] * num}
        told["heat"] = {"temperature_c": 81.5, "throttled": True, "under_voltage": True}
        route.fulfill(json={**told, "started": 1})

    page.route("**/admin/status*", hot)
    expect(page.locator("figure", has_text="Temperature")).to_contain_text("°C")
    expect(page.get_by_text("Heat slowed the board for")).to_be_visible()


def test_only_what_is_new_is_asked_for_and_nothing_by_a_page_that_is_not_seen(page: Page) -> None:
    asked: list[str] = []
    page.clock.install()
    page.reload()
    page.on("request", lambda request: asked.append(request.url) if "/admin/status" in request.url else None)
    expect(page.get_by_role("heading", name="The last ten minutes")).to_be_visible()
    with page.expect_request(re.compile(r"/admin/status\?since=[\d.]+$")):
        page.clock.run_for(1100)
    hide = """(away) => {
        Object.defineProperty(document, 'hidden', { get: () => away, configurable: true });
        document.dispatchEvent(new Event('visibilitychange'));
    }"""
    for leave, come_back in (
        (lambda: page.evaluate(hide, True), lambda: page.evaluate(hide, False)),
        (lambda: _follow(page, "Chat"), lambda: _follow(page, "Device")),
    ):
        with page.expect_response(re.compile("/admin/status")):  # that no poll is on its way
            page.clock.run_for(1100)
        leave()
        asked.clear()
        page.clock.run_for(60_000)
        assert asked == []
        with page.expect_request(re.compile("/admin/status")):
            come_back()


def _follow(page: Page, view: str) -> None:
    page.get_by_role("link", name=view, exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_contain_text({"Chat": "Chat", "Device": "This device"}[view])


def test_the_doctor_and_the_requests_are_shown_when_asked_for(page: Page) -> None:
    page.get_by_role("button", name="Examine the device").click()
    expect(page.get_by_text("smollm2-135m-instruct is whole")).to_be_visible(timeout=LONG_MS)
    page.get_by_role("button", name="Show the requests").click()
    row = page.get_by_role("table", name="Last requests").get_by_role("row").nth(1)
    expect(row).to_contain_text(re.compile(r"GET /admin/\w+"))
    expect(row).to_contain_text("127.0.0.1")


def test_a_name_of_another_device_is_text_and_only_a_web_address_a_link(page: Page) -> None:
    names = {"<img src=x>": "https://lantern-1.local:8443/", "evil": "javascript:alert(1)"}
    devices = [
        {"name": name, "url": url, "address": "192.0.2.1", "state": "ready", "num_models": 2, "version": "0.2.0"}
        for name, url in names.items()
    ]
    page.route("**/admin/devices", lambda route: route.fulfill(json={"devices": devices}))
    page.get_by_role("button", name="Search the network").click()
    table = page.get_by_role("table", name="Other devices")
    expect(table.get_by_role("link", name="<img src=x>")).to_have_attribute("href", "https://lantern-1.local:8443/")
    expect(table.get_by_text("evil")).to_be_visible()
    assert table.locator("img").count() == 0
    assert table.get_by_role("link").count() == 1


def test_a_machine_without_an_image_says_how_it_is_updated(page: Page) -> None:
    said = page.get_by_text("This device was not started from an image")
    expect(said).to_have_text(re.compile("^This device was not started"))  # and not that it takes no requests


def test_an_update_is_summed_sent_and_its_outcome_told(
    open_view: OpenView, kept_server: RunningServer, tmp_path: Path, pictures: Path
) -> None:
    page = open_view(kept_server, "chat")
    content = os.urandom((4 << 20) + 321)
    outcome = {
        "object": "update",
        "running": "0.1.0",
        "step": "none",
        "version": "",
        "detail": "",
        "failed": "",
        "received": 0,
    }
    received = bytearray()

    def upload(state: str = "uploading") -> dict[str, object]:
        file = {"name": "update.raucb", "size_bytes": len(content), "received": len(received)}
        return {"id": "0" * 64, "state": state, "name": "update", "files": [file]}

    def answer(route: Route) -> None:
        url, method = route.request.url, route.request.method
        if url.endswith("/install"):
            outcome.update(step="refused", detail="the signature is not valid", version="0.2.0")
            route.fulfill(status=202, json=outcome)
        elif "/files/" in url:
            received.extend(route.request.post_data_buffer or b"")
            route.fulfill(json=upload()["files"][0])  # type: ignore[index]
        elif url.endswith("/uploads") and method == "POST":
            asked = json.loads(route.request.post_data or "")
            assert asked == {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            route.fulfill(status=201, json=upload())
        else:
            route.fulfill(json={"uploads": []} if "uploads" in url else outcome)

    page.route(re.compile(r"\d/admin/update"), answer)
    path = tmp_path / "lantern-0.2.0-rpi.raucb"
    aside(lambda: path.write_bytes(content))
    page.get_by_role("link", name="Device").click()
    page.get_by_label("File of the update").set_input_files(path)
    expect(page.get_by_text("The update has arrived")).to_be_visible()
    expect(page.get_by_text("the signature is not valid")).to_be_visible()
    expect(page.get_by_text("refused · 0.2.0")).to_be_visible()
    take_picture(page, pictures / "update.png")
    assert bytes(received) == content


@pytest.mark.parametrize("size", [0, 1, 55, 56, 64, 119, 1 << 22, (1 << 22) + 63])
def test_the_sum_of_a_file_is_its_sha256(page: Page, size: int) -> None:
    content = bytes(i * 37 % 251 for i in range(min(size, 997))) * (size // 997 + 1)
    told = page.evaluate(
        """async ([pattern, size]) => {
            const { sha256 } = await import('/console/admin/sha256.js');
            const bytes = Uint8Array.from({ length: size }, (_, i) => pattern.length ? pattern[i % pattern.length] : 0);
            return sha256(new Blob([bytes]), () => {}, new AbortController().signal);
        }""",
        [list(content[: min(size, 997)]), size],
    )
    assert told == hashlib.sha256(content[:size]).hexdigest()


def test_safe_mode_is_told_and_can_be_left(open_view: OpenView, tmp_path: Path, pictures: Path) -> None:
    home = Home(tmp_path / "home")
    safe = safe_server(home)
    port = aside(safe.__enter__)
    try:
        local = json.loads(aside(home.running.read_text))["key"]
        server = RunningServer(f"http://127.0.0.1:{port}/v1", None, lambda call: call())  # type: ignore[arg-type]
        page = open_view(server, "device", key=local)
        expect(page.locator("#state")).to_have_text("Safe mode")
        expect(page.get_by_text("The device failed several times")).to_be_visible()
        expect(page.get_by_text("unknown of unknown")).to_have_count(0)
        take_picture(page, pictures / "safe-mode.png")
        page.get_by_role("button", name="Leave safe mode and restart").click()
        expect(page.get_by_text("The device restarts.")).to_be_visible()
    finally:
        aside(lambda: safe.__exit__(None, None, None))


def test_a_restart_between_two_looks_is_told(open_view: OpenView, kept_server: RunningServer) -> None:
    page = open_view(kept_server, "device")
    expect(page.get_by_role("heading", name="The last ten minutes")).to_be_visible()

    def restarted(route: Route) -> None:
        answer = route.fetch()
        told = answer.json()
        route.fulfill(response=answer, json={**told, "started": told["started"] + 1})

    page.route("**/admin/status*", restarted)
    expect(page.get_by_text("The device is back.")).to_be_visible()


def test_a_restart_while_the_page_is_open_keeps_the_figures_and_goes_on_by_itself(
    open_view: OpenView, tmp_path: Path
) -> None:
    with served_by_a_process(tmp_path) as server:
        page = open_view(server, "device", key=KEY)
        expect(page.get_by_role("heading", name="The last ten minutes")).to_be_visible()
        page.get_by_role("button", name="Restart the appliance").click()
        page.get_by_role("dialog").get_by_role("button", name="Restart the appliance").click()
        expect(page.get_by_text("The device restarts.")).to_be_visible()
        expect(page.get_by_text("The device is back.")).to_be_visible(timeout=LONG_MS)
        expect(page.get_by_text("These figures are the last ones")).to_be_hidden()
        expect(page.locator("figure", has_text="Free memory")).to_be_visible()
        headers = {"authorization": f"Bearer {KEY}"}
        assert httpx2.get(f"{server.root_url}/admin/status", headers=headers).json()["status"] == "ok"

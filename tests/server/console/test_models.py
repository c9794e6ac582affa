"""The models view of a device with small models: install with pause and reload, trust, and every act on a model."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from tests.server.console.driver import NO_PLAYWRIGHT

pytest.importorskip("playwright", reason=NO_PLAYWRIGHT)

from playwright.sync_api import Locator, Page, Route, expect

from appliance.bundle.archive import write_archive
from appliance.bundle.signing import key_id, public_pem
from tests.bundle.workshop import install_untried
from tests.install.tiny_bundles import TinyDevice
from tests.server.admin.clients import KEY, Administrator, administered
from tests.server.console.aside import aside
from tests.server.console.conftest import OpenView

INSTALL_MS = 60_000


@pytest.fixture
def device(tmp_path: Path) -> TinyDevice:
    def make() -> TinyDevice:
        made = TinyDevice(tmp_path)
        install_untried(made.store, made.make(name="other"))
        return made

    return aside(make)


@pytest.fixture
def admin(device: TinyDevice) -> Iterator[Administrator]:
    with administered(device) as administrator:
        yield administrator


@pytest.fixture
def page(open_view: OpenView, admin: Administrator) -> Page:
    page = open_view(admin.server, "models", key=KEY)
    page.on("dialog", lambda dialog: dialog.accept())
    expect(card(page, "other")).to_be_visible()
    return page


def card(page: Page, name: str) -> Locator:
    return page.get_by_role("region", name=name, exact=True)


def packed(device: TinyDevice, seed: int, **what: Any) -> Path:
    """A bundle as one file."""

    def pack() -> Path:
        folder = device.make(seed, **what)
        path = folder.with_suffix(".lantern")
        with path.open("wb") as file:
            binary: BinaryIO = file
            write_archive(folder, binary)
        return path

    return aside(pack)


def choose(page: Page, path: Path) -> None:
    page.get_by_label("File of the model").set_input_files(path)


def confirm(page: Page, act: str) -> None:
    page.get_by_role("dialog").get_by_role("button", name=act).click()


def test_a_model_is_unloaded_loaded_named_and_removed(page: Page, admin: Administrator) -> None:
    other = page.get_by_role("region", name="other", exact=True)
    expect(other).to_contain_text("Loaded")
    other.get_by_role("button", name="Unload: other").click()
    expect(other).to_contain_text("Not loaded")
    other.get_by_role("button", name="Load: other").click()
    expect(other.get_by_role("button", name="Unload: other")).to_be_visible()
    other.get_by_text("Other names (0)").click()
    other.get_by_label("Another name").fill("text-embedding-3-small")
    other.get_by_role("button", name="Add").click()
    expect(other.get_by_text("Other names (1)")).to_be_visible()
    assert len(admin.vector(model="text-embedding-3-small")) == 8
    other.get_by_text("Other names (1)").click()
    other.get_by_role("button", name="Remove the name text-embedding-3-small").click()
    expect(other.get_by_text("Other names (0)")).to_be_visible()
    other.get_by_role("button", name="Remove: other").click()
    confirm(page, "Cancel")
    expect(other).to_be_visible()
    other.get_by_role("button", name="Remove: other").click()
    confirm(page, "Remove")
    expect(page.get_by_text("other is removed.")).to_be_visible()
    expect(page.get_by_text("No model is installed.")).to_be_visible()
    assert admin.ask("GET", "/admin/models").json()["models"] == []


def test_the_one_file_of_a_bundle_is_installed_rolled_back_and_its_report_kept(
    page: Page, admin: Administrator, device: TinyDevice
) -> None:
    for seed in (1, 2):
        choose(page, packed(device, seed, report="<h1>Figures</h1>"))
        expect(page.get_by_text("tiny is installed.")).to_be_visible(timeout=INSTALL_MS)
        page.get_by_label("File of the model").set_input_files([])
        page.reload()
    second = admin.vector()
    tiny = page.get_by_role("region", name="tiny", exact=True)
    with page.expect_download() as download:
        tiny.get_by_role("button", name="Report: tiny").click()
    assert download.value.suggested_filename == "tiny.html"
    assert download.value.path().read_text() == "<h1>Figures</h1>"
    tiny.get_by_role("button", name="Roll back: tiny").click()
    confirm(page, "Roll back")
    expect(page.get_by_text("The earlier version of tiny serves.")).to_be_visible()
    assert admin.vector() != second


def test_an_upload_is_paused_and_goes_on_and_survives_a_reload(
    page: Page, admin: Administrator, device: TinyDevice
) -> None:
    archive = packed(device, 3, padding=bytes(range(256)) * (12 << 12))  # three pieces of the page
    pieces: list[int] = []

    def one_piece(route: Route) -> None:
        """Let one piece of the large file through, and hold the next one."""
        if "padding" not in route.request.url or not pieces:
            pieces.extend([1] if "padding" in route.request.url else [])
            route.continue_()

    page.route("**/admin/uploads/*/files/*", one_piece)
    choose(page, archive)
    expect(page.get_by_text(re.compile(r"Sending: 4\.?\d* MB of 13 MB"))).to_be_visible()
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_text("Paused.")).to_be_visible()
    page.reload()
    expect(page.get_by_text(re.compile(r"Unfinished: tiny, 4\.?\d* MB of 13 MB"))).to_be_visible()
    page.unroute("**/admin/uploads/*/files/*")
    sent: list[str] = []
    page.on("request", lambda r: sent.append(r.headers.get("content-range", "")) if "padding" in r.url else None)
    choose(page, archive)
    expect(page.get_by_text("tiny is installed.")).to_be_visible(timeout=INSTALL_MS)
    assert sent[0].startswith("bytes 4194304-")
    assert len(admin.vector()) == 8
    expect(page.get_by_text("Unfinished")).to_have_count(0)


def test_a_lost_network_is_waited_for(page: Page, device: TinyDevice) -> None:
    lost: list[str] = []

    def lose(route: Route) -> None:
        if len(lost) < 2:
            lost.append(route.request.url)
            return route.abort("connectionreset")
        return route.continue_()

    page.route("**/admin/uploads/*/files/*", lose)
    choose(page, packed(device, 4))
    expect(page.get_by_text("waiting to go on")).to_be_visible()
    expect(page.get_by_text("tiny is installed.")).to_be_visible(timeout=INSTALL_MS)


@pytest.mark.parametrize("content", [b"", b"x" * 2000, b"\0" * 4096, b"PK\3\4" + b"z" * 600])
def test_a_file_that_is_no_bundle_is_refused_before_anything_is_sent(
    page: Page, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "photo.tar"
    path.write_bytes(content)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.method) if "/admin/uploads" in request.url else None)
    choose(page, path)
    expect(page.get_by_text("This file is no bundle")).to_be_visible()
    assert "POST" not in asked


def test_a_strangers_model_is_refused_with_the_reason_until_its_key_is_trusted(page: Page, device: TinyDevice) -> None:
    stranger = aside(device.stranger)
    archive = packed(device, 5, key=stranger)
    choose(page, archive)
    signer = key_id(stranger.public)
    expect(page.get_by_text(re.compile(f"not trusted.*{signer}|{signer}.*not trusted"))).to_be_visible()
    page.get_by_text("Trust another signer").click()
    page.get_by_label("Public key (PEM)").fill("no key")
    page.get_by_role("button", name="Trust this key").click()
    expect(page.locator(".notice.bad").first).to_contain_text("The device answered")
    page.get_by_label("Public key (PEM)").fill(public_pem(stranger.public).decode())
    page.get_by_role("button", name="Trust this key").click()
    expect(page.get_by_text(f"Models signed by {signer} run here.")).to_be_visible()
    page.get_by_role("button", name="Go on").click()
    expect(page.get_by_text("tiny is installed.")).to_be_visible(timeout=INSTALL_MS)
    page.get_by_role("button", name=f"Remove: {signer}").click()
    confirm(page, "Remove")
    expect(page.get_by_role("region", name="tiny", exact=True)).to_contain_text("Faulty")


def test_a_damaged_bundle_is_told_and_nothing_changes(page: Page, admin: Administrator, device: TinyDevice) -> None:
    archive = packed(device, 6, padding=b"right" * 1000)
    archive.write_bytes(archive.read_bytes().replace(b"rightright", b"wrongwrong"))
    choose(page, archive)
    expect(page.locator("p.notice.bad", has_text="damaged")).to_be_visible(timeout=INSTALL_MS)
    assert {m["name"] for m in admin.ask("GET", "/admin/models").json()["models"]} == {"other"}

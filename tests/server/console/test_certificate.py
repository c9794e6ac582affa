"""A certificate that changes while the page is open, in a browser that accepts the first one only."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.server.console.driver import NO_PLAYWRIGHT

pytest.importorskip("playwright", reason=NO_PLAYWRIGHT)

from playwright.sync_api import Page, expect, sync_playwright

from appliance.home import Home
from appliance.identity.certificate import pin_of
from tests.conftest import RunningServer, a_config, serving
from tests.server.console.cable import Cable
from tests.server.console.conftest import CHROMIUM
from tests.server.console.keeping import kept
from tests.server.console.test_chat import LONG_ANSWER, answer_without_end, ask, wait_for_end, wait_for_text
from tests.server.responses.asking import create, text_of


def a_home(root: Path, starter_home: Home) -> Home:
    """The starters in a home with a certificate of its own."""
    home = Home(root)
    shutil.copytree(starter_home.trusted_keys, home.trusted_keys)
    home.bundles.symlink_to(starter_home.bundles.resolve())
    home.cache.symlink_to(starter_home.cache.resolve())
    return home


@pytest.fixture(scope="module")
def devices(starter_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[tuple[Home, RunningServer]]]:
    """Two devices with the same models, whose certificates differ."""
    settings = a_config(tls={"enabled": True, "port": 0})
    homes = [a_home(tmp_path_factory.mktemp(name) / "home", starter_home) for name in ("first", "second")]
    with ExitStack() as stack:
        yield [(home, stack.enter_context(serving(settings, home))) for home in homes]


@pytest.fixture
def trusting_page(devices: list[tuple[Home, RunningServer]]) -> Iterator[Page]:
    """A page of a browser that accepts the certificate of the first device."""
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here; install Debian's package chromium, or set LANTERN_CHROMIUM")
    accepted = pin_of(devices[0][0].tls).removeprefix("sha256//")
    arguments = ["--no-sandbox", "--disable-gpu", f"--ignore-certificate-errors-spki-list={accepted}"]
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser.new_context(locale="en").new_page()
        browser.close()


def https_port(server: RunningServer) -> int:
    port = server.service.https_port
    assert port is not None
    return port


def test_the_page_tells_of_a_certificate_that_it_cannot_accept_and_goes_on_with_the_first_one(
    trusting_page: Page, devices: list[tuple[Home, RunningServer]]
) -> None:
    page = trusting_page
    (_, first), (_, second) = devices
    asked = [{"role": "user", "content": "Count."}]
    whole = text_of(create(first, input=asked, ignore_eos=True, **LONG_ANSWER))
    with Cable(https_port(first)) as cable:
        page.goto(cable.url.replace("http://127.0.0.1", "https://localhost"))
        answer_without_end(page, **LONG_ANSWER)
        ask(page, "Count.")
        wait_for_text(page)
        cable.lead_to(https_port(second))
        expect(page.get_by_text("The connection was lost")).to_be_visible()
        other = page.context.new_page()
        with pytest.raises(Exception, match="ERR_CERT_AUTHORITY_INVALID"):
            other.goto(page.url)
        other.close()
        page.get_by_role("button", name="New chat").click()
        ask(page, "Hi")
        expect(page.locator(".message.assistant .notice")).to_contain_text("its certificate has changed")
        cable.lead_to(https_port(first))
        page.locator(".chats .list li", has_text="Count.").get_by_role("button").first.click()
        wait_for_end(page)
        assert whole in [message["content"] for message in kept(page)["messages"] if message["role"] == "assistant"]

"""A browser for the tests of the page: Debian's Chromium, driven by Playwright; skipped where either is missing."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import pytest

from appliance.home import Home
from tests.conftest import RunningServer, a_config, serving
from tests.server.admin.clients import own_address
from tests.server.console.driver import NO_PLAYWRIGHT

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

LONG_MS = 60_000
with contextlib.suppress(ImportError):
    from playwright.sync_api import expect

    expect.set_options(timeout=LONG_MS)  # a slow machine takes longer for the same; a fault is found all the same

CHROMIUM = os.environ.get("LANTERN_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for a module, since its driver runs a loop in this thread; each test has a profile of its own."""
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here; install Debian's package chromium, or set LANTERN_CHROMIUM")
    driver_module = pytest.importorskip("playwright.sync_api", reason=NO_PLAYWRIGHT)
    # Names that end in .local lead to this machine's address, since no resolver of the machine knows them.
    rules = f"--host-resolver-rules=MAP *.local {own_address() or '127.0.0.1'}"
    with driver_module.sync_playwright() as driver:
        made = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", rules])
        yield made
        made.close()


@pytest.fixture
def page(browser: Browser, server: RunningServer) -> Iterator[Page]:
    """The page of the shared server in a fresh profile; what the browser complains about fails the test."""
    context = browser.new_context(locale="en-GB", viewport={"width": 1100, "height": 760})
    context.set_default_timeout(LONG_MS)
    page, complaints = context.new_page(), list[str]()
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text) if "Content Security" in said.text else None)
    page.goto(server.root_url)
    yield page
    context.close()
    assert not complaints


ADMIN_KEY = "sk-the-administrator-of-this-test"
OpenView: TypeAlias = "Callable[..., Page]"


@pytest.fixture(scope="module")
def kept_home(starter_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with the starters whose keys are its own, since a key closes every server of its home."""
    home = Home(tmp_path_factory.mktemp("kept"))
    shutil.copytree(starter_home.trusted_keys, home.trusted_keys)
    home.bundles.symlink_to(starter_home.bundles.resolve())
    home.cache.symlink_to(starter_home.cache.resolve())
    return home


@pytest.fixture(scope="module")
def kept_server(kept_home: Home) -> Iterator[RunningServer]:
    """The starters behind a key for administration. Tests may change its keys, not its models, which are shared."""
    with serving(a_config(server={"keys": [ADMIN_KEY]}), kept_home) as running:
        yield running


@pytest.fixture
def open_view(browser: Browser) -> Iterator[OpenView]:
    """Opens a view with the key of the administrator; what the browser complains about fails the test."""
    contexts: list[BrowserContext] = []
    complaints: list[str] = []

    def open_it(server: RunningServer, view: str, *, key: str = ADMIN_KEY, **options: object) -> Page:
        made = browser.new_context(**{"locale": "en-GB", "viewport": {"width": 1100, "height": 900}, **options})  # type: ignore[arg-type]
        contexts.append(made)
        made.set_default_timeout(LONG_MS)
        page = made.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda said: complaints.append(said.text) if "Content Security" in said.text else None)
        page.add_init_script(f"sessionStorage.getItem('lantern.key') ?? sessionStorage.setItem('lantern.key', '{key}')")
        page.goto(f"{server.root_url}/#{view}")
        return page

    yield open_it
    for context in contexts:
        for page in context.pages:
            page.unroute_all(behavior="ignoreErrors")  # an answer that a test changes may still be on its way
        context.close()
    assert not complaints


def take_picture(page: Page, path: Path) -> None:
    """Write a picture of the whole view, for which the window grows: its middle part scrolls by itself."""
    whole = page.evaluate("document.querySelector('header').offsetHeight + document.querySelector('main').scrollHeight")
    size = page.viewport_size
    assert size is not None
    page.set_viewport_size({"width": size["width"], "height": max(size["height"], min(whole, 5000))})
    page.screenshot(path=path)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder for pictures: that of LANTERN_CONSOLE_PICTURES, else a temporary one."""
    folder = Path(os.environ.get("LANTERN_CONSOLE_PICTURES") or tmp_path_factory.mktemp("pictures"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder

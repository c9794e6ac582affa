"""A new card, a person with a browser, and a program that runs with what the page shows.

The names of the LAN lead to the forwarded port here: in the browser by a rule of its resolver, in the programs by a
setting of theirs. All else is as shown.
"""

from __future__ import annotations

import os
import re
import shutil
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.images.boots.board import MINUTES, Board, Card, switched_on
from tests.images.boots.conftest import image_path
from tests.images.boots.figures import tell
from tests.server.console.aside import aside
from tests.server.console.conftest import CHROMIUM
from tests.server.console.driver import NO_PLAYWRIGHT

pytest.importorskip("playwright", reason=NO_PLAYWRIGHT)

from playwright.sync_api import Page, expect, sync_playwright

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")

_LONG_MS = 15 * MINUTES * 1000
_RESOLVER = """
import socket
_found = socket.getaddrinfo
def _forwarded(host, port, *more, **named):
    return _found("127.0.0.1", {port}, *more, **named) if host == {host!r} else _found(host, port, *more, **named)
socket.getaddrinfo = _forwarded
"""


@pytest.fixture(scope="module")
def new(scratch: Path) -> Iterator[Board]:
    """A board of its own, which nobody has claimed."""
    folder = scratch / "browser"
    folder.mkdir(exist_ok=True)
    card = Card(image_path(), folder)
    card.write("lantern.toml", b"[server]\nmax_wait_s = 900\n")
    with switched_on(card, folder) as running:
        yield running


@pytest.fixture(scope="module")
def name(new: Board) -> str:
    """The device's name, as its screen shows it."""
    new.wait_for_health()
    return new.wait_for(r"https://(lantern-[0-9a-f]{8}\.local)/")[1]


@pytest.fixture(scope="module")
def page(new: Board, name: str) -> Iterator[Page]:
    """A browser in front of the warning of the certificate, which its owner goes past."""
    assert name
    rules = f"--host-resolver-rules=MAP *.local 127.0.0.1:{new.ports['https']}"
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", rules])
        context = browser.new_context(locale="en-GB", ignore_https_errors=True)
        context.set_default_timeout(_LONG_MS)
        expect.set_options(timeout=_LONG_MS)
        complaints = list[str]()
        context.on("weberror", lambda error: complaints.append(str(error.error)))
        yield context.new_page()
        browser.close()
        assert not complaints


def test_it_is_claimed_with_the_code_on_its_screen_and_answers(new: Board, name: str, page: Page) -> None:
    code = aside(lambda: new.wait_for(r"Claim code  ([0-9A-Z]{4}-[0-9A-Z]{4})")[1])
    page.goto(f"https://{name}/")
    page.get_by_label("Code", exact=True).fill(code)
    page.get_by_role("button", name="Make it mine").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("This device is yours")
    page.get_by_role("button", name="Start chatting").click()
    expect(page.locator("#state")).to_have_text("Ready")
    page.get_by_label("Your message").fill("Name the capital city of France.")
    page.keyboard.press("Enter")
    asked_s = time.monotonic()
    expect(page.locator(".message.assistant .foot")).to_contain_text("tokens/s")
    tell("the browser's first answer, from Enter to its end", f"{time.monotonic() - asked_s:.0f} s")
    expect(page.locator(".message.assistant > div:has(.text)")).to_contain_text("Paris")
    assert aside(lambda: new.wait_for(r"This device is claimed by ", timeout_s=3 * MINUTES))


@pytest.fixture(scope="module")
def workstation(new: Board, name: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A folder with the device's certificate, as the page says how to save it, and the environment of programs."""
    folder = tmp_path_factory.mktemp("workstation")
    port = new.ports["https"]
    (folder / "lantern.pem").write_text(ssl.get_server_certificate(("127.0.0.1", port), timeout=60), "ascii")
    (folder / "sitecustomize.py").write_text(_RESOLVER.format(port=port, host=name), "utf-8")
    (folder / ".curlrc").write_text(f'connect-to = "{name}:443:127.0.0.1:{port}"\n', "utf-8")
    more = {"SSL_CERT_FILE": "lantern.pem", "PYTHONPATH": str(folder), "CURL_HOME": str(folder)}
    return folder, {**os.environ, **more}


@pytest.mark.parametrize("program", ["Python", "curl"])
def test_a_program_runs_as_the_page_shows_it(
    page: Page, name: str, program: str, workstation: tuple[Path, dict[str, str]]
) -> None:
    if program == "curl" and shutil.which("curl") is None:  # the program in Python is run anywhere
        pytest.skip("there is no curl here")
    page.goto(f"https://{name}/#connect")
    page.get_by_role("button", name="Make a key and put it in").click()
    expect(page.get_by_text(re.compile(r"The key program-\w+ is in the programs below"))).to_be_visible()
    text = page.get_by_role("region", name=program, exact=True).locator("pre").inner_text()
    assert name in text
    folder, environment = workstation

    def run() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", text] if program == "Python" else ["sh", "-c", text]
        return subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=_LONG_MS / 1000
        )

    done = aside(run)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()

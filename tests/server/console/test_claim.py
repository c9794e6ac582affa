"""A new device becomes somebody's in a browser, over real TLS, from another address than its own."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from appliance.home import Home
from tests.conftest import RunningServer, a_config, serving
from tests.server.admin.clients import need_own_address, own_address
from tests.server.console.driver import NO_PLAYWRIGHT

pytest.importorskip("playwright", reason=NO_PLAYWRIGHT)

from playwright.sync_api import Browser, BrowserContext, Error, Page, ViewportSize, expect

WIDE: ViewportSize = {"width": 1280, "height": 900}
PHONE: ViewportSize = {"width": 320, "height": 640}
SECRETS = """() => JSON.stringify([location.href, history.state, document.documentElement.outerHTML,
    {...sessionStorage}, {...localStorage}])"""


@pytest.fixture
def home(starter_home: Home, tmp_path: Path) -> Home:
    """The starter models on a device without an owner."""
    made = Home(tmp_path / "device")
    made.root.mkdir()
    made.trusted_keys.parent.mkdir(mode=0o700)
    made.trusted_keys.symlink_to(starter_home.trusted_keys)
    made.bundles.symlink_to(starter_home.bundles)
    made.cache.symlink_to(starter_home.cache)
    return made


@pytest.fixture
def device(home: Home) -> Iterator[RunningServer]:
    need_own_address()
    models: dict[str, object] = {"preload": []}
    config = a_config(server={"claimable": True, "host": "0.0.0.0"}, tls={"enabled": True, "port": 0}, models=models)
    with serving(config, home) as server:
        yield server


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A browser whose owner goes past the warning of the certificate."""
    made = browser.new_context(locale="en-GB", viewport=WIDE, ignore_https_errors=True)
    complaints = list[str]()
    made.on("weberror", lambda error: complaints.append(str(error.error)))
    made.on("console", lambda said: complaints.append(said.text) if "Content Security" in said.text else None)
    yield made
    made.close()
    assert not complaints


def name_of(home: Home) -> str:
    return f"lantern-{(home.root / 'device-id').read_text()[:8]}.local"


def secure(device: RunningServer, home: Home) -> str:
    return f"https://{name_of(home)}:{device.service.https_port}"


def plain(device: RunningServer, home: Home) -> str:
    return f"http://{name_of(home)}:{device.service.port}"


def code_of(home: Home) -> str:
    return home.claim_code.read_text().strip()


def test_from_the_link_on_the_screen_to_an_answer_of_the_owners_own_device(
    context: BrowserContext, device: RunningServer, home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", logger="appliance")
    code, page = code_of(home), context.new_page()
    asked = list[str]()
    page.on("request", lambda request: asked.append(f"{request.url} {request.post_data or ''}"))
    page.goto(f"{secure(device, home)}/#claim={code}")
    expect(page.get_by_label("Code", exact=True)).to_have_value(code)
    assert page.evaluate("isSecureContext && !!crypto.subtle && !!navigator.clipboard")
    assert code not in page.url
    assert page.evaluate("history.length") == 2  # the empty page before, and this one
    page.get_by_role("button", name="Make it mine").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("This device is yours")
    expect(page.locator("#state")).to_have_text("Ready")
    key = page.locator("pre").inner_text()
    assert re.fullmatch(r"sk-lantern-\S{43}", key)
    assert key not in page.url
    page.get_by_role("button", name="Start chatting").click()
    assert code not in page.evaluate(SECRETS)
    assert key not in page.content()
    assert sum(code in one for one in asked) == 1  # in the body of the claim, and in no address
    assert not any(key in one or code in one.split()[0] for one in asked)
    page.get_by_label("Your message").fill("What is the capital of France?")
    page.keyboard.press("Enter")
    expect(page.locator(".message.assistant .foot")).to_contain_text("tokens/s", timeout=120_000)
    expect(page.locator(".message.assistant > div:has(.text)")).to_contain_text(
        re.compile(r"\S")
    )  # also a line not yet whole
    page.reload()
    expect(page.locator("#state")).to_have_text("Ready")
    assert page.evaluate("localStorage.getItem('lantern.key')") == key
    headers = {"authorization": f"Bearer {key}"}
    log = httpx2.get(f"{device.root_url}/admin/requests", headers=headers).text
    assert "/admin/claim" in log
    assert not any(secret in log + caplog.text for secret in (code, key, "capital of France"))


def test_wrong_codes_are_told_and_end_in_a_wait(context: BrowserContext, device: RunningServer, home: Home) -> None:
    page = context.new_page()
    page.goto(secure(device, home))
    expect(page.get_by_role("heading", level=1)).to_have_text("Make this device yours")
    code = page.get_by_label("Code", exact=True)
    expect(code).to_be_focused()
    for _ in range(5):
        code.fill("0000-0000")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_contain_text("not the code")
        expect(page.get_by_role("button", name="Make it mine")).to_be_enabled()
    code.fill(code_of(home))
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text(re.compile(r"Try again in \d+ seconds"))
    assert not home.claimed.exists()


def test_a_second_browser_sees_who_was_first_and_when(
    context: BrowserContext, browser: Browser, device: RunningServer, home: Home
) -> None:
    late = context.new_page()
    late.goto(secure(device, home))
    expect(late.get_by_label("Code", exact=True)).to_be_visible()
    other = browser.new_context(locale="en-GB", ignore_https_errors=True)
    first = other.new_page()
    first.goto(f"{secure(device, home)}/#claim={code_of(home)}")
    first.get_by_label("Your name").fill("Änna  Müller")
    first.get_by_role("button", name="Make it mine").click()
    expect(first.get_by_role("heading", level=1)).to_have_text("This device is yours")
    other.close()
    late.get_by_label("Code", exact=True).fill("0000-0000")
    late.keyboard.press("Enter")
    expect(late.get_by_role("heading", level=1)).to_have_text("This device has an owner")
    expect(late.get_by_role("alert")).to_contain_text(
        re.compile(r"Anna-Muller claimed this device on \w+ \d+, 20\d\d at")
    )
    late.reload()
    expect(late.get_by_text(re.compile("Anna-Muller claimed this device on"))).to_be_visible()  # beside the key's form
    assert json.loads(home.claimed.read_text())["address"] == own_address()


def test_the_fingerprint_on_the_page_is_the_one_of_the_connection(
    context: BrowserContext, device: RunningServer, home: Home
) -> None:
    page = context.new_page()
    answer = page.goto(secure(device, home))
    assert answer is not None
    details = answer.security_details()
    assert details is not None
    assert details["subjectName"] == name_of(home)
    expect(page.locator(".hex span")).to_have_count(4)
    shown = ":".join(page.locator(".hex span").all_inner_texts())
    connected = subprocess.run(
        ["openssl", "s_client", "-connect", f"{own_address()}:{device.service.https_port}"],
        input=b"",
        capture_output=True,
        check=False,
    ).stdout
    openssl = subprocess.run(
        ["openssl", "x509", "-noout", "-fingerprint", "-sha256"], input=connected, capture_output=True, check=True
    ).stdout.decode()
    assert shown == openssl.strip().rpartition("=")[2]


def test_plain_http_ends_at_a_landing_page_without_any_field_where_the_warning_was_not_passed(
    browser: Browser, device: RunningServer, home: Home
) -> None:
    context = browser.new_context(locale="en-GB", viewport=WIDE)
    page = context.new_page()
    asked = list[str]()
    page.on("requestfailed", lambda request: asked.append(request.url))
    with page.expect_event("requestfailed", lambda request: request.url.endswith("/health")):
        page.goto(f"{plain(device, home)}/#claim=7K3M-2QXD")
    expect(page.get_by_role("heading", level=1)).to_contain_text("This is lantern-")
    assert page.url.startswith(plain(device, home))
    assert page.locator("input, textarea, select").count() == 0
    go = page.get_by_role("link", name="Go on over HTTPS")
    expect(go).to_have_attribute("href", f"{secure(device, home)}/#claim=7K3M-2QXD")
    expect(page.get_by_role("link", name=f"https://{own_address()}:{device.service.https_port}/")).to_be_visible()
    with pytest.raises(Error, match="ERR_CERT_AUTHORITY_INVALID"):
        context.new_page().goto(go.get_attribute("href") or "")
    page.get_by_role("link", name="Go on without encryption").click()
    expect(page.get_by_text("Anybody on this network can read what you write here.")).to_be_visible()
    expect(page.get_by_text("Others on this network could read the key here.")).to_be_visible()
    page.get_by_label("Code", exact=True).fill(code_of(home))
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_be_visible()
    assert not home.claimed.exists()
    context.close()


def test_where_the_warning_was_passed_before_every_name_leads_to_the_devices_own(
    context: BrowserContext, device: RunningServer, home: Home
) -> None:
    own = f"{secure(device, home)}/"
    for start in (f"{plain(device, home)}/", f"https://{own_address()}:{device.service.https_port}/"):
        page = context.new_page()
        page.goto(f"{start}#claim={code_of(home)}")
        page.wait_for_url(own)
        expect(page.get_by_label("Code", exact=True)).to_have_value(code_of(home))


def test_at_the_device_itself_no_code_is_asked_for(page: Page, browser: Browser, empty_home: Home) -> None:
    config = a_config(server={"claimable": True}, tls={"enabled": True, "port": 0})
    with serving(config, empty_home) as server:
        page.goto(server.root_url)
        expect(page.get_by_label("Your name")).to_be_visible()
        assert page.get_by_label("Code", exact=True).count() == 0
        page.get_by_role("button", name="Make it mine").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("This device is yours")
        assert httpx2.get(f"{server.root_url}/health").json()["status"] == "ok"


def test_the_link_that_serve_prints_brings_the_key_of_this_run_and_hides_it(page: Page, empty_home: Home) -> None:
    with serving(a_config(server={"keys": ["sk-of-somebody"]}), empty_home) as server:
        assert "#" not in server.service.page_url(with_key=False)
        link = server.service.page_url(with_key=True)
        key = link.partition("#key=")[2]
        page.goto(server.root_url)
        page.evaluate("localStorage.setItem('lantern.key', 'sk-remembered')")
        page.goto("about:blank")
        page.goto(link)
        expect(page.get_by_text("No chat model is installed on this device.")).to_be_visible()  # the key was taken
        assert page.url == f"{server.root_url}/"
        assert page.evaluate("[sessionStorage['lantern.key'], localStorage['lantern.key']]") == [key, "sk-remembered"]


def test_an_open_server_is_linked_without_a_key(server: RunningServer) -> None:
    assert server.service.page_url(with_key=True) == f"{server.root_url}/"


@pytest.mark.parametrize("language", ["en", "de"])
@pytest.mark.parametrize(("scheme", "size"), [("light", WIDE), ("dark", WIDE), ("light", PHONE), ("dark", PHONE)])
def test_landing_and_claim_have_names_contrast_and_fit(
    browser: Browser, device: RunningServer, home: Home, pictures: Path, scheme: str, size: ViewportSize, language: str
) -> None:
    from tests.server.console.test_looks import FAINT, UNNAMED

    context = browser.new_context(viewport=size, locale=language, reduced_motion="reduce", ignore_https_errors=True)
    context.route("**/health", lambda route: route.abort() if route.request.method == "OPTIONS" else route.continue_())
    page = context.new_page()
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")

    def look(view: str) -> None:
        page.screenshot(path=pictures / f"{view}-{scheme}-{size['width']}-{language}.png", full_page=True)
        assert page.evaluate(UNNAMED) == []
        assert page.evaluate(FAINT) == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.evaluate("document.querySelector('main').scrollWidth <= document.querySelector('main').clientWidth")
        assert page.locator("h1").count() == 1

    page.route(f"{secure(device, home)}/health", lambda route: route.abort())  # as where the warning was not passed
    page.goto(plain(device, home))
    expect(page.locator(".warning")).to_be_visible()
    look("landing")
    page.unroute_all()
    page.goto(secure(device, home))
    expect(page.locator("input[name=code]")).to_be_visible()
    look("claim")
    page.emulate_media(color_scheme=None, forced_colors="active")
    page.screenshot(path=pictures / f"claim-forced-{size['width']}-{language}.png")
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light", forced_colors="none")
    page.locator("input[name=code]").fill(code_of(home))
    page.keyboard.press("Enter")
    expect(page.locator("pre")).to_be_visible()
    look("claimed")
    context.close()

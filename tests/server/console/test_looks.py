"""Every view, light, dark and on a phone: pictures for people, and checks of names, contrast and width."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tests.server.console.driver import NO_PLAYWRIGHT

pytest.importorskip("playwright", reason=NO_PLAYWRIGHT)

from playwright.sync_api import Browser, Page, Route, ViewportSize, expect

from tests.conftest import RunningServer
from tests.server.console.conftest import ADMIN_KEY, OpenView, take_picture
from tests.server.console.test_chat import answer_with, ask
from tests.server.console.test_rendering import FORMULAS

WIDE: ViewportSize = {"width": 1280, "height": 800}
PHONE: ViewportSize = {"width": 320, "height": 640}
ANSWER = """A **lantern** serves models on a board. See [the specification](https://example.com/spec).

## Figures

| board | tokens/s | memory |
|---|---:|---|
| Raspberry Pi 5 | 14.2 | 8 GB |
| a board with a very long name indeed | 7 | 4 GB |

1. flash the card
2. open the page
   - no terminal is needed

```python
client = OpenAI(base_url="http://lantern.local/v1", api_key="a key that makes this line rather long")
```

> It answers without a cloud.
"""

UNNAMED = """() => [...document.querySelectorAll('button, input, select, textarea, a, summary')]
    .filter((e) => e.checkVisibility() && !(e.getAttribute('aria-label') || e.innerText?.trim() || e.labels?.length
        && e.labels[0].innerText.trim())).map((e) => e.outerHTML)"""
FAINT = """() => {
    const canvas = document.createElement('canvas').getContext('2d');
    const rgb = (color) => {
        canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data];
    };
    const light = (color) => color.slice(0, 3).map((v) => v / 255)
        .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const behind = (e) => {
        for (; e; e = e.parentElement) {
            const color = rgb(getComputedStyle(e).backgroundColor);
            if (color[3] === 255) return color;
        }
        return rgb('Canvas');
    };
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), faint = [];
    for (let node = texts.nextNode(); node; node = texts.nextNode()) {
        const e = node.parentElement;
        if (!node.data.trim() || !e.checkVisibility() || e.closest(':disabled')) continue;
        const [a, b] = [light(rgb(getComputedStyle(e).color)), light(behind(e))].sort((x, y) => y - x);
        if ((a + 0.05) / (b + 0.05) < 4.5) faint.push([node.data, (a + 0.05) / (b + 0.05)]);
    }
    return faint;
}"""


SMALL = """() => [...document.querySelectorAll('button, input, select, textarea, summary, nav a')]
    .filter((e) => e.checkVisibility({ contentVisibilityAuto: true }))
    .map((e) => [e.outerHTML.slice(0, 90), e.getBoundingClientRect()])
    .filter(([, box]) => box.width < 24 || box.height < 24).map(([text]) => text)"""  # WCAG 2.2, 2.5.8
VIEWS = ["empty", "chat", "branches", "playground", "connect", "models", "keys", "device", "denied"]
LOOKS = [("light", WIDE), ("dark", WIDE), ("light", PHONE), ("dark", PHONE)]


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize(("scheme", "size"), LOOKS)
def test_a_view_has_names_contrast_and_fits(
    open_view: OpenView, kept_server: RunningServer, pictures: Path, view: str, scheme: str, size: ViewportSize
) -> None:
    key = ADMIN_KEY if view != "denied" else "sk-wrong"
    look = {"viewport": size, "reduced_motion": "reduce", "color_scheme": scheme}
    name = {"denied": "models", "empty": "chat", "branches": "chat"}.get(view, view)
    page = open_view(kept_server, name, key=key, **look)
    prepare(page, view)
    if name == "chat":  # the composer leaves room for what is above it
        assert page.evaluate(
            "document.querySelector('main').scrollHeight <= document.querySelector('main').clientHeight"
        )
    take_picture(page, pictures / f"{view}-{scheme}-{size['width']}.png")
    assert page.evaluate(UNNAMED) == []
    assert page.evaluate(FAINT) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("document.querySelector('main').scrollWidth <= document.querySelector('main').clientWidth")
    if (view, size) == ("keys", WIDE):  # whose last column has the buttons
        assert page.evaluate(
            "(({ scrollWidth, clientWidth }) => scrollWidth <= clientWidth)(document.querySelector('.table'))"
        )
    assert page.locator("h1").count() == 1
    assert page.evaluate(SMALL) == []


def prepare(page: Page, view: str) -> None:
    expect(page.locator("#state")).to_have_text("Ready")
    match view:
        case "denied":
            expect(page.get_by_role("alert").first).to_contain_text("wrong or revoked")
        case "playground":
            page.get_by_role("button", name="Compare").click()
            expect(page.get_by_role("table", name="Similarity")).to_be_visible()
        case "connect":
            expect(page.get_by_role("region", name="curl")).to_be_visible()
        case "models":
            page.route("**/admin/models", _long_names)
            page.reload()
            for summary in ("Quality", "Other names (4)"):
                page.get_by_text(summary).first.click()
        case "keys":
            page.route("**/admin/keys", _many_keys)
            page.get_by_label("Name").fill("a" * 64)
            page.get_by_role("button", name="Make the key").click()
            expect(page.get_by_role("button", name="I have copied it")).to_be_visible()
        case "device":
            page.route("**/admin/status*", _ten_minutes)
            page.reload()
            expect(page.get_by_role("heading", name="The last ten minutes")).to_be_visible()
            page.get_by_text("As a table").first.click()
            for button in ("Examine the device", "Show the requests"):
                page.get_by_role("button", name=button).click()
            expect(page.get_by_text("smollm2-135m-instruct is whole")).to_be_visible()
            expect(page.get_by_role("table", name="Last requests")).to_be_visible()
        case "chat":
            answer_with(page, ANSWER)
            ask(page, "What does this device do, and how fast is it?")
            expect(page.get_by_role("button", name="Regenerate")).to_be_visible()
        case "branches":
            _branches(page)


def _branches(page: Page) -> None:
    """Show formulas, branches, a chip, settings and an edit at once."""
    answer_with(page, FORMULAS)
    page.locator(".ask input[type=file]").set_input_files(
        {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"some notes"}
    )
    ask(page, "What is the sum?")
    page.get_by_role("button", name="Regenerate").click()
    expect(page.locator(".versions")).to_contain_text("2 of 2")
    page.get_by_text("Options").click()
    expect(page.get_by_label("JSON Schema of the answer")).to_be_visible()
    if (page.viewport_size or PHONE)["width"] == WIDE["width"]:
        page.get_by_text("Keyboard shortcuts").click()
    page.get_by_role("button", name="Edit").click()
    expect(page.locator(".chips li")).to_have_count(1)


def _long_names(route: Route) -> None:
    """A device with names as long as they may be, a model that is faulty, and one with an earlier version."""
    told = route.fetch().json()
    first, second = told["models"]
    first |= {"name": "n" * 96, "aliases": ["default", "gpt-4o-mini", "x" * 128, "org/chat:latest"]}
    second |= {"versions": ["a" * 64, "b" * 64], "loaded": False}
    faulty = {"name": "broken", "digest": "0" * 64, "versions": ["0" * 64], "loaded": False, "aliases": []}
    told["models"].append({**faulty, "memory_bytes": 0, "problem": "model.onnx is damaged; install it again"})
    route.fulfill(json=told)


def _many_keys(route: Route) -> None:
    if route.request.method == "POST":
        made = {"id": "0" * 12, "name": "a" * 64, "role": "inference", "rate": None, "created": 0, "last_used": None}
        return route.fulfill(status=201, json={**made, "key": f"sk-lantern-{'k' * 43}"})
    names = {"a" * 64: None, "kitchen-phone": 60, "home-assistant": 1_000_000}
    keys = [
        {"id": "0" * 12, "name": name, "role": "inference", "rate": rate, "created": 1_790_000_000, "last_used": None}
        for name, rate in names.items()
    ]
    return route.fulfill(json={"keys": keys})


def _ten_minutes(route: Route) -> None:
    """A hot board at work, with a full history."""
    told = route.fetch().json()
    if "since" not in route.request.url:
        history, num = told["history"], 300
        wave = [abs(math.sin(i / 20)) for i in range(num)]
        history |= {name: [column[-1]] * num for name, column in history.items() if isinstance(column, list)}
        history |= {"at_s": [2.0 * i for i in range(num)], "temperature_c": [60 + 22 * w for w in wave]}
        history |= {"generated_tokens_per_s": [14.2 * w for w in wave], "running": [round(4 * w) for w in wave]}
        history |= {"processor_percent": [100 * w for w in wave], "throttled": [w > 0.9 for w in wave]}
    told["heat"] = {"temperature_c": 81.5, "throttled": True, "under_voltage": True}
    route.fulfill(json={**told, "faults": ["settings: server.port is not a number"]})


def test_the_whole_page_loads_from_the_device_in_few_requests(browser: Browser, server: RunningServer) -> None:
    context = browser.new_context()
    page, asked = context.new_page(), list[str]()
    page.on("request", lambda request: asked.append(request.url))
    page.on("response", lambda answer: asked.append("ready") if answer.url.endswith("/health") else None)
    page.goto(server.root_url, wait_until="networkidle")
    assert all(url.startswith((f"{server.root_url}/", "ready")) for url in asked)
    files = [url for url in asked[: asked.index("ready")] if "/console/" in url or url == f"{server.root_url}/"]
    assert len(files) == len(set(files)) <= 20
    ahead = {url.rpartition("/")[2] for url in asked[asked.index("ready") :] if "/console/" in url}
    assert ahead == {"rename.js", "search.js", "settings.js", "transfer.js", "versions.js"}
    context.close()


def test_forced_colours_keep_plots_and_codes_visible(
    open_view: OpenView, kept_server: RunningServer, pictures: Path
) -> None:
    page = open_view(kept_server, "device", forced_colors="active", color_scheme="dark")
    page.route("**/admin/status*", _ten_minutes)
    page.reload()
    line = page.locator("figure", has_text="Tokens generated").locator("path.line")
    expect(line).to_be_attached()
    page.screenshot(path=pictures / "device-forced.png")
    stroke, behind = line.evaluate("e => [getComputedStyle(e).stroke, getComputedStyle(document.body).backgroundColor]")
    assert stroke != behind


def test_a_question_is_asked_and_a_view_changed_by_keyboard_alone(page: Page) -> None:
    answer_with(page, "fine")
    expect(page.locator("[name=question]")).to_be_focused()  # once the page is ready, which moves the focus
    page.evaluate("document.activeElement.blur()")
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.name") == "question":
            break
    page.keyboard.type("how are you")
    page.keyboard.press("Enter")
    expect(page.locator(".message.assistant .text")).to_have_text("fine")
    page.get_by_role("link", name="Connect").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_contain_text("in a program")

"""A chat in a real browser against the real server."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.server.console.driver import NO_PLAYWRIGHT

pytest.importorskip("playwright", reason=NO_PLAYWRIGHT)

from playwright.sync_api import Browser, Error, Page, Route, expect

from appliance.home import Home
from tests.conftest import RunningServer, a_config, serving
from tests.server.console.cable import Cable
from tests.server.console.keeping import kept, kept_answer, wait_for_kept_answer
from tests.server.responses.asking import create, text_of

LONG_MS = 60_000
HOSTILE = """<script>document.title = 'taken'</script> <img src=x onerror="document.title='taken'">

[go](javascript:document.title='taken') [out](https://example.com/a) ![beacon](https://evil.example/x.png)

| a | b |
|---|---|
| <b>1</b> | `<i>` |

```html
<script>document.title = 'taken'</script>
```
- one
  - two **bold**
1. three
> quoted
# Heading
"""


def ask(page: Page, text: str) -> None:
    page.get_by_label("Your message").fill(text)
    page.keyboard.press("Enter")


def event(number: int, kind: str, **fields: object) -> str:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, 'sequence_number': number, **fields})}\n\n"


def answer_with(page: Page, *pieces: str, end: str = "data: [DONE]\n\n") -> None:
    """Let the next answers be these pieces, instead of the model's."""
    deltas = [event(i, "response.output_text.delta", delta=piece) for i, piece in enumerate(pieces)]
    body = "".join(deltas) + end

    def fulfil(route: Route) -> None:
        route.fulfill(status=200, content_type="text/event-stream", body=body)

    page.route("**/v1/responses", fulfil)


def answer_without_end(page: Page, **more: object) -> None:
    """Let the model write until its context is full, or as far as another field of the request says."""

    def endless(route: Route) -> None:
        asked = json.loads(route.request.post_data or "")
        route.continue_(post_data=json.dumps({**asked, "ignore_eos": True, **more}))

    page.route("**/v1/responses", endless)


def test_a_question_is_answered_and_a_reload_keeps_both(page: Page) -> None:
    page.get_by_text("Options").click()
    page.get_by_label("System prompt").fill("Answer in one short sentence.")
    page.get_by_label("Temperature").fill("0")
    ask(page, "What is the capital of France?")
    answer = page.locator(".message.assistant")
    expect(answer.get_by_role("button", name="Regenerate")).to_be_visible(timeout=LONG_MS)
    text = answer.locator(".text").inner_text()
    assert "Paris" in text
    expect(answer.locator(".foot")).to_contain_text("tokens/s")
    expect(answer.locator(".foot")).to_contain_text("tokens of context used")
    page.reload()
    expect(answer.locator(".text")).to_have_text(text)
    page.get_by_text("Options").click()
    expect(page.get_by_label("System prompt")).to_have_value("Answer in one short sentence.")
    answer.get_by_role("button", name="Regenerate").click()
    expect(answer.get_by_role("button", name="Regenerate")).to_be_visible(timeout=LONG_MS)
    assert answer.count() == 1
    page.get_by_role("button", name="Edit").click()
    expect(page.get_by_label("Your message")).to_have_value("What is the capital of France?")
    expect(page.get_by_text("sending it makes a branch")).to_be_visible()


def wait_for_idle(server: RunningServer) -> None:
    """Wait until no answer runs, asked outside of the page: a predicate of Playwright may not be asynchronous."""
    for _ in range(2000):  # a few milliseconds each; an answer without end runs for tens of seconds
        engines = httpx2.get(f"{server.root_url}/health", timeout=60).json()["engines"].values()
        if not any(engine["num_running"] for engine in engines):
            return
    raise AssertionError(f"an answer still runs: {engines}")


def test_stop_keeps_what_came_and_frees_the_slot(page: Page, server: RunningServer) -> None:
    answer_without_end(page)
    ask(page, "Count.")
    expect(page.locator(".message.assistant > div").first).to_contain_text(re.compile(r"\w{2}"), timeout=LONG_MS)
    page.get_by_role("button", name="Stop").click()
    expect(page.locator(".message.assistant")).to_contain_text("Stopped.")
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    assert page.locator(".message.assistant .text").inner_text()
    wait_for_idle(server)


def test_a_chat_that_is_deleted_while_its_answer_runs_stays_deleted(page: Page) -> None:
    page.on("dialog", lambda dialog: dialog.accept())
    answer_without_end(page)
    ask(page, "Count.")
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    page.get_by_role("button", name="Delete chat").click()
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    expect(page.locator(".message, .chats .list li")).to_have_count(0)
    page.reload()
    expect(page.locator(".empty")).to_be_visible()
    assert kept(page) == {"chats": [], "messages": []}


def test_what_a_model_says_is_text_and_never_runs(page: Page) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    answer_with(page, HOSTILE)
    ask(page, "x")
    text = page.locator(".message.assistant .text")
    expect(text.locator("h3")).to_have_text("Heading")
    assert "taken" not in page.title()
    assert text.locator("script, img, b, i").count() == 0
    assert text.locator("a").evaluate_all("links => links.map(link => link.href)") == [
        "https://example.com/a",
        "https://evil.example/x.png",
    ]
    assert text.locator("td").all_inner_texts() == ["<b>1</b>", "<i>"]
    assert text.locator("pre").inner_text().strip() == "<script>document.title = 'taken'</script>"
    assert text.locator("ul ul li strong").inner_text() == "bold"
    assert text.locator("blockquote").inner_text() == "quoted"
    assert not [url for url in asked if "evil" in url or "example.com" in url]


def test_markup_by_a_string_is_refused_by_the_browser(page: Page) -> None:
    with pytest.raises(Error, match="TrustedHTML"):
        page.evaluate("document.body.innerHTML = '<p>x</p>'")


def test_an_answer_looks_the_same_however_it_was_cut(page: Page) -> None:
    render = """async (pieces) => {
        const { Markdown } = await import('/console/markdown.js');
        const parent = document.createElement('div');
        document.createElement('div').append(parent);
        const markdown = new Markdown(parent);
        for (const piece of pieces) markdown.add(piece);
        markdown.end();
        return parent.outerHTML;
    }"""
    assert page.evaluate(render, [HOSTILE]) == page.evaluate(render, list(HOSTILE))


def test_a_long_answer_costs_as_much_a_token_at_its_end_as_at_its_start(page: Page) -> None:
    first, last = page.evaluate("""async () => {
        const { Markdown } = await import('/console/markdown.js');
        const parent = document.createElement('div');
        document.createElement('div').append(parent);
        const markdown = new Markdown(parent);
        const observer = new MutationObserver(() => {});
        observer.observe(parent, { childList: true, characterData: true, subtree: true });
        const changes = (count) => {
            for (let i = 0; i < count; i++) markdown.add(i % 40 ? ' token' : ' **token**\\n\\n');
            const records = observer.takeRecords();
            return records.reduce((sum, r) => sum + 1 + r.addedNodes.length + r.removedNodes.length, 0);
        };
        changes(4000);
        const first = changes(4000);
        changes(40000);
        return [first, changes(4000)];
    }""")
    assert first >= 100  # a paragraph for each 40 tokens
    assert last == first


@pytest.mark.parametrize(
    ("status", "said"),
    [(401, "wrong or revoked"), (429, "in 7 seconds"), (503, "takes no requests"), (0, "cannot be reached")],
)
def test_failures_are_told_in_plain_words(page: Page, status: int, said: str) -> None:
    def refuse(route: Route) -> None:
        if not status:
            return route.abort()
        error = {"error": {"message": "busy", "type": "x", "param": None, "code": None}}
        return route.fulfill(status=status, json=error, headers={"retry-after": "7"})

    page.route("**/v1/responses", refuse)
    ask(page, "x")
    expect(page.locator(".message.assistant .notice")).to_contain_text(said)


def test_a_stream_without_its_end_is_told_and_what_came_is_kept(page: Page) -> None:
    answer_with(page, "half an ans", end="")
    ask(page, "x")
    expect(page.locator(".message.assistant .notice")).to_contain_text("broke before")
    page.reload()
    expect(page.locator(".message.assistant .text")).to_have_text("half an ans")


LONG_ANSWER: dict[str, Any] = {"temperature": 0, "max_output_tokens": 300}


@pytest.fixture(scope="module")
def whole_answer(server: RunningServer) -> str:
    """The answer of the model to the question of the next tests."""
    asked = [{"role": "user", "content": "Count."}]
    return text_of(create(server, input=asked, ignore_eos=True, **LONG_ANSWER))


def wait_for_text(page: Page) -> None:
    expect(page.locator(".message.assistant > div").first).to_contain_text(re.compile(r"\w{2}"), timeout=LONG_MS)


def wait_for_end(page: Page) -> None:
    expect(page.locator(".message.assistant").get_by_role("button", name="Regenerate")).to_be_visible(timeout=LONG_MS)


def test_an_answer_goes_on_over_reloads_and_the_device_forgets_it_then(page: Page, whole_answer: str) -> None:
    answer_without_end(page, **LONG_ANSWER)
    asked: list[tuple[str, str]] = []
    page.on("request", lambda request: asked.append((request.method, request.url)))
    ask(page, "Count.")
    for _ in range(2):
        wait_for_text(page)
        expect(page.get_by_role("button", name="Stop")).to_be_visible()
        page.reload()
    with page.expect_response(lambda response: response.request.method == "DELETE") as deleted:
        wait_for_end(page)
    assert deleted.value.ok
    assert kept_answer(page) == whole_answer
    expect(page.locator(".message.assistant")).to_contain_text("longest length")
    assert [method for method, url in asked if url.endswith("/v1/responses")] == ["POST"]
    page.reload()
    wait_for_end(page)
    assert page.get_by_role("button", name="Stop").is_hidden()


def test_an_answer_goes_on_when_the_network_is_back(page: Page, server: RunningServer, whole_answer: str) -> None:
    with Cable(server.service.port) as cable:
        page.goto(cable.url)
        answer_without_end(page, **LONG_ANSWER)
        ask(page, "Count.")
        wait_for_text(page)
        cable.cut()
        expect(page.get_by_text("The connection was lost")).to_be_visible()
        cable.mend()
        wait_for_end(page)
        assert kept_answer(page) == whole_answer
        assert page.locator(".message.assistant .text").count() == 1


def test_an_answer_that_the_device_has_lost_is_told_and_what_came_is_kept(page: Page) -> None:
    answer_without_end(page)
    ask(page, "Count.")
    wait_for_text(page)
    wait_for_kept_answer(page)
    page.route("**/v1/responses/*", lambda route: route.fulfill(status=404, json={"error": {"message": "gone"}}))
    page.reload()
    expect(page.locator(".message.assistant .notice")).to_contain_text("broke before")
    assert kept_answer(page)
    page.unroute_all()


def test_where_nothing_is_stored_an_answer_ends_with_its_connection(browser: Browser, starter_home: Home) -> None:
    with serving(a_config(responses={"store": "off"}), starter_home) as server:
        context = browser.new_context(locale="en")
        page = context.new_page()
        page.goto(server.root_url)
        ask(page, "Hi")
        wait_for_end(page)
        assert kept_answer(page)
        context.close()


def test_an_unclaimed_device_says_how_to_claim_it(browser: Browser, empty_home: Home) -> None:
    with serving(a_config(server={"claimable": True}), empty_home) as server:
        context = browser.new_context(locale="en")
        page = context.new_page()
        page.goto(server.root_url)
        expect(page.get_by_role("heading", level=1)).to_have_text("Make this device yours")
        assert page.get_by_label("Key").count() == 0
        expect(page.locator("#state")).to_have_text("Not claimed")
        context.close()


def test_a_server_with_keys_asks_for_one(browser: Browser, starter_home: Home, pictures: Path) -> None:
    config = a_config(server={"keys": ["test-key-0123456789abcdef"]})
    with serving(config, starter_home) as server:
        context = browser.new_context(locale="de-DE")
        page = context.new_page()
        page.goto(server.root_url)
        page.get_by_label("Schlüssel", exact=True).fill("wrong")
        page.get_by_role("button", name="Schlüssel verwenden").click()
        expect(page.get_by_role("alert").first).to_contain_text("falsch oder widerrufen")
        page.get_by_text("Optionen").click()
        page.screenshot(path=pictures / "key-de.png")
        page.get_by_label("Schlüssel", exact=True).fill("test-key-0123456789abcdef")
        page.get_by_role("button", name="Schlüssel verwenden").click()
        expect(page.locator("select option").first).to_be_attached()
        assert page.evaluate("[localStorage.length, sessionStorage.length]") == [0, 1]
        context.close()

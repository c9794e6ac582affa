"""From the link that `make run` prints to an answer: how much has to be clicked and typed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.console.driver import NO_PLAYWRIGHT

pytest.importorskip("playwright", reason=NO_PLAYWRIGHT)

from playwright.sync_api import Browser, expect

from appliance.home import Home
from tests.server.console.aside import aside

QUESTION = "What is the capital of Italy?"  # answers are sampled: all of 310 named Rome, and 90 of 100 Paris for France
_COUNT = """() => {
    window.acts = { clicks: 0, keys: 0 };
    addEventListener('pointerdown', (event) => { acts.clicks += event.isTrusted; }, true);
    addEventListener('keydown', (event) => { acts.keys += event.isTrusted; }, true);
}"""


@pytest.fixture
def link(starter_home: Home) -> Iterator[str]:
    """The link that the command of `make run` prints, whose server runs meanwhile."""
    recipe = (Path(__file__).parents[3] / "Makefile").read_text("utf-8")
    assert "exec $(BIN)/lantern serve --host $(HOST) --port $(PORT)\n" in recipe
    command = [sys.executable, "-m", "appliance", "serve", "--host", "127.0.0.1", "--port", "0"]
    environment = {**os.environ, "LANTERN_HOME": str(starter_home.root)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        lines = process.stdout
        yield aside(lambda: next(line for line in lines if "In a browser:" in line)).split()[-1]
        process.terminate()
        aside(process.communicate)


def test_a_question_and_enter_are_all_that_an_answer_takes(browser: Browser, link: str) -> None:
    context = browser.new_context(locale="en")
    page = context.new_page()
    page.add_init_script(f"({_COUNT})()")
    page.goto(link)
    expect(page.get_by_label("Your message")).to_be_focused()
    page.keyboard.type(QUESTION)
    page.keyboard.press("Enter")
    answer = page.locator(".message.assistant")
    expect(answer.locator(".foot")).to_contain_text("tokens/s")
    expect(answer.get_by_role("button", name="Regenerate")).to_be_visible()
    assert "Rome" in answer.locator(".text").inner_text()
    # Capitals are typed with the shift key, which Playwright does not press.
    assert page.evaluate("acts") == {"clicks": 0, "keys": len(QUESTION) + 1}
    context.close()

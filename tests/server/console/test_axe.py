"""Every view under axe-core's rules for WCAG 2.2 AA: light, dark, forced colours, and 320 pixels wide."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.server.console.driver import NO_PLAYWRIGHT

pytest.importorskip("playwright", reason=NO_PLAYWRIGHT)

from playwright.sync_api import Page, expect

from tests.clients.environments import npm_packages
from tests.conftest import RunningServer
from tests.server.console.aside import aside
from tests.server.console.conftest import OpenView
from tests.server.console.test_chat import answer_with, ask
from tests.server.console.test_looks import PHONE, WIDE, prepare
from tests.server.console.test_rendering import FORMULAS

pytestmark = pytest.mark.slow

VIEWS = ["empty", "chat", "branches", "playground", "connect", "models", "keys", "device", "denied"]
LOOKS: dict[str, dict[str, Any]] = {
    "light": {"viewport": WIDE, "color_scheme": "light"},
    "dark": {"viewport": WIDE, "color_scheme": "dark"},
    "phone": {"viewport": PHONE, "color_scheme": "light"},
    "forced": {"viewport": WIDE, "forced_colors": "active"},
}
_RUN = """async () => {
    const rules = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'];
    const { violations } = await axe.run(document, { runOnly: rules });
    return violations.map(({ id, nodes }) => [id, nodes.map((node) => node.html.slice(0, 160))]);
}"""


@pytest.fixture(scope="module")
def axe(wants_clients: None) -> str:
    """The source of axe-core."""
    return aside(lambda: (npm_packages("axe-core@4.12.1") / "axe-core" / "axe.min.js").read_text("utf-8"))


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("look", LOOKS)
def test_axe_finds_nothing(
    axe: str, open_view: OpenView, kept_server: RunningServer, pictures: Path, view: str, look: str
) -> None:
    key = {"key": "sk-wrong"} if view == "denied" else {}
    name = {"denied": "models", "empty": "chat", "branches": "chat"}.get(view, view)
    page = open_view(kept_server, name, reduced_motion="reduce", **key, **LOOKS[look])
    prepare(page, view)
    if view == "branches":
        _branches(page)
    page.screenshot(path=pictures / f"axe-{view}-{look}.png")
    page.evaluate(axe)
    assert page.evaluate(_RUN) == []


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
    if page.viewport_size == WIDE:
        page.get_by_text("Keyboard shortcuts").click()
    page.get_by_role("button", name="Edit").click()
    expect(page.locator(".chips li")).to_have_count(1)

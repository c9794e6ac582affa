"""Every view under axe-core's rules for WCAG 2.2 AA: light, dark, forced colours, and 320 pixels wide."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.server.console.driver import NO_PLAYWRIGHT

pytest.importorskip("playwright", reason=NO_PLAYWRIGHT)

from tests.clients.environments import npm_packages
from tests.conftest import RunningServer
from tests.server.console.aside import aside
from tests.server.console.conftest import OpenView
from tests.server.console.test_looks import PHONE, VIEWS, WIDE, prepare

pytestmark = pytest.mark.slow

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
    page.screenshot(path=pictures / f"axe-{view}-{look}.png")
    page.evaluate(axe)
    assert page.evaluate(_RUN) == []

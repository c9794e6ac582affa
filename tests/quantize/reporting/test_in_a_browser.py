"""The report in a real browser that reaches no network; skipped if no Chromium is installed."""

from __future__ import annotations

import shutil
import subprocess
from html import escape
from pathlib import Path

import pytest

from quantize.reporting.report import report_page
from tests.quantize.reporting.findings import FULL, manifest

_CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
_OFFLINE = ("--headless", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND")


@pytest.mark.skipif(_CHROMIUM is None, reason="no Chromium is installed")
def test_a_browser_shows_all_of_the_page_and_complains_of_nothing(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_bytes(report_page(manifest(), FULL))
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    command = [str(_CHROMIUM), *_OFFLINE, profile, "--enable-logging=stderr", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    for heading in ("Quality", "Sensitivity", "Distribution", "Answers side by side", "Origin and versions"):
        assert f"<h2>{heading}</h2>" in done.stdout
    assert escape("<script>alert(1)</script>", quote=False) in done.stdout
    assert "<svg" in done.stdout
    assert "CONSOLE" not in done.stderr

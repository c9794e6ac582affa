"""The reason for which tests of the page are skipped without their driver; it imports nothing of the driver."""

from __future__ import annotations

NO_PLAYWRIGHT = "playwright is not installed; install it with: pip install playwright (`make setup` does)"

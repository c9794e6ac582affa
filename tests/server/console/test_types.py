"""The page's types, written as JSDoc and checked by the TypeScript compiler; it needs npm, and asks its registry."""

from __future__ import annotations

import subprocess
from importlib import resources

import pytest

from tests.clients.environments import npm_packages

_OPTIONS = ["--noEmit", "--checkJs", "--allowJs", "--strict", "--noUnusedLocals", "--target", "esnext"]
_OPTIONS += ["--module", "esnext", "--moduleResolution", "bundler", "--lib", "esnext,dom,dom.iterable"]
_TIMEOUT_S = 180.0


@pytest.mark.slow
def test_the_types_of_the_page_hold(wants_clients: None) -> None:
    compiler = npm_packages("typescript@5.9.3") / "typescript" / "bin" / "tsc"
    with resources.as_file(resources.files("appliance.server.console") / "static") as folder:
        modules = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.js"))
        command = ["node", str(compiler), *_OPTIONS, *modules]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    assert len(modules) > 30
    assert done.returncode == 0, done.stdout + done.stderr

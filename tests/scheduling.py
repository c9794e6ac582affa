"""The worker of a parallel run that takes a test: one takes all tests of a module, and one all tests of images.

Modules start servers and build what all their tests use; two workers would do it twice. pytest-xdist's own groups
(`xdist_group`) are not used: with pytest 9.2 they are silently none.
"""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling

_TOGETHER = "tests/images/"  # a package, a system and a card, made once for all modules


class ByModule(LoadScopeScheduling):  # type: ignore[misc]
    """The scheduler of pytest-xdist that keeps the tests of a module together."""

    def _split_scope(self, nodeid: str) -> str:
        """Return the group of a test, by its id."""
        path: str = nodeid.partition("::")[0]
        return _TOGETHER if path.startswith(_TOGETHER) else path

"""The command `lantern`: one thin function per verb."""

from __future__ import annotations

import argparse
import sys
from types import ModuleType

from appliance import __version__
from appliance.cli import chat, discover, serve, url
from appliance.errors import LanternError

_INTERRUPTED = 130

_VERBS: dict[str, tuple[ModuleType, str]] = {
    "serve": (serve, "answer the OpenAI API"),
    "discover": (discover, "list the devices on the local network"),
    "url": (url, "print the base URL of a device, for scripts"),
    "chat": (chat, "talk to a device in the terminal"),
}


def main(argv: list[str] | None = None) -> int:
    """Run one verb; an error is one sentence and its exit code."""
    parser = argparse.ArgumentParser(prog="lantern", description="An edge inference appliance.")
    parser.add_argument("--version", action="version", version=f"lantern {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, (module, text) in _VERBS.items():
        module.add_arguments(verbs.add_parser(name, help=text, description=module.__doc__))
    args = parser.parse_args(argv)
    try:
        code: int = _VERBS[args.verb][0].run(args)
    except LanternError as err:
        print(f"lantern: {err.message}", file=sys.stderr)
        return err.exit_code
    except KeyboardInterrupt:
        return _INTERRUPTED
    return code


if __name__ == "__main__":
    sys.exit(main())

"""The command `lantern`: one thin function per verb."""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module

from appliance import __version__
from appliance.errors import LanternError

_INTERRUPTED = 130
_UNREAD = 141

_VERBS = {
    "serve": "answer the OpenAI API",
    "discover": "list the devices on the local network",
    "url": "print the base URL of a device, for scripts",
    "chat": "talk to a device in the terminal",
    "gateway": "put several devices behind one address",
    "models": "list, install, load, remove and roll back models",
    "claim": "make a new device yours",
    "keys": "make, list and revoke the keys that clients use",
    "config": "print the settings with their defaults, or check a file",
    "doctor": "look for what is wrong with this device",
    "requests": "show the last requests of a device",
    "restart": "start a device's appliance again",
    "safe-mode": "tell whether a device runs without its models, and end that",
    "fingerprint": "show the pin of this device's certificate",
    "update": "send a device a signed update of its whole system",
    "bench": "measure this machine, or another server",
}


def main(argv: list[str] | None = None) -> int:
    """Run one verb; an error is one sentence and its exit code.

    Only the verb's own module is imported, so that a server holds nothing of the other commands in memory.
    """
    argv = sys.argv[1:] if argv is None else argv
    chosen = next((word for word in argv if word in _VERBS), None)
    parser = argparse.ArgumentParser(prog="lantern", description="An edge inference appliance.")
    parser.add_argument("--version", action="version", version=f"lantern {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, text in _VERBS.items():
        verb = verbs.add_parser(name, help=text)
        if name == chosen:
            module = import_module(f"appliance.cli.{name.replace('-', '_')}")
            verb.description = module.__doc__
            module.add_arguments(verb)
    args = parser.parse_args(argv)
    try:
        code: int = module.run(args)
    except LanternError as err:
        print(f"lantern: {err.message}", file=sys.stderr)
        return err.exit_code
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:  # whoever reads has enough, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at the end
        return _UNREAD
    return code


if __name__ == "__main__":
    sys.exit(main())

"""`lantern chat`: talk to a device in the terminal, or ask it one question.

The key of `--key`, `LANTERN_API_KEY` or the keyring goes to a URL that the user typed, or over TLS to a device whose
certificate is the one that we know: what merely turned up on the network may be anybody. Ctrl-C stops an answer and
closes its connection; Ctrl-D leaves.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TextIO

from appliance.cli.chat_client import ChatClient, ChatError, Message
from appliance.cli.selection import add_device, add_timeout
from appliance.errors import ConfigError
from appliance.remote import Target, target_at, target_named
from appliance.remote.session import is_url

_HELP = """\
/reset       forget the conversation
/model [ID]  show or change the model
/help        this
Ctrl-C       stop the answer
Ctrl-D       leave"""
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_EMBEDDER = re.compile(r"embed|minilm|\bbge\b|\bgte\b|\be5\b", re.IGNORECASE)


@dataclass(slots=True)
class Conversation:
    """The server, the model and the messages of a chat; owned by the command's one thread."""

    target: Target
    model: str
    system: str | None = None
    temperature: float | None = None
    stats: bool = False
    turns: list[Message] = field(default_factory=list)

    def messages(self) -> list[Message]:
        """Return the messages to send: the system text, and every turn."""
        return ([Message("system", self.system)] if self.system else []) + self.turns


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add_device(parser, "the first by trust, state and name")
    parser.add_argument("--model", help="the model's id (default: the first that chats)")
    parser.add_argument("--key", help="the API key (default: LANTERN_API_KEY, then the platform's keyring)")
    parser.add_argument("--system", help="the system message")
    parser.add_argument("--temperature", type=float, metavar="T", help="0 to 2 (default: the server's)")
    parser.add_argument("--stats", action="store_true", help="show the time to the first token, and tokens a second")
    add_timeout(parser)
    parser.add_argument(
        "prompt", nargs="?", metavar="PROMPT", help="ask this alone; without it, standard input or a chat"
    )


def run(args: argparse.Namespace) -> int:
    """Chat until the user leaves, or answer one prompt.

    Raises:
        DiscoveryError: no URL was given and no device found.
        TrustError: the device is not who it says it is.
        ChatError: the server refused or could not be reached.
    """
    with asyncio.Runner() as runner:
        try:
            conversation = runner.run(_prepare(args))
            if args.prompt is None and sys.stdin.isatty():
                _talk(runner, conversation)
            else:
                prompt = sys.stdin.read() if args.prompt is None else args.prompt
                runner.run(_answer(conversation, prompt.strip(), sys.stdout))
        except KeyboardInterrupt:
            print(file=sys.stderr)
            return 130
    return 0


async def _prepare(args: argparse.Namespace) -> Conversation:
    """Find the server and the model."""
    if args.device is not None and is_url(args.device):
        target = await target_at(args.device, key=args.key)
    else:
        target = await target_named(args.device, model=args.model, key=args.key, timeout_s=args.timeout)
        print(target.reason, file=sys.stderr)
    model = args.model
    if model is None:
        async with ChatClient(target) as client:
            model = _first_that_chats(await client.models(), target.base_url)
    return Conversation(target, model, system=args.system, temperature=args.temperature, stats=args.stats)


def _talk(runner: asyncio.Runner, conversation: Conversation) -> None:
    """Read, answer, repeat."""
    print(f"{conversation.model} at {conversation.target.base_url}; /help tells the rest.", file=sys.stderr)
    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print("\nCtrl-D leaves.", file=sys.stderr)
            continue
        if line.startswith("/"):
            _command(conversation, line)
        elif line:
            try:
                runner.run(_answer(conversation, line, sys.stdout))
            except KeyboardInterrupt:
                print("\n(stopped)", file=sys.stderr)
            except ChatError as err:
                print(f"\n{err.message}", file=sys.stderr)


def _command(conversation: Conversation, line: str) -> None:
    verb, _, argument = line.partition(" ")
    if verb == "/reset":
        conversation.turns.clear()
        print("Forgotten.", file=sys.stderr)
    elif verb == "/model":
        conversation.model = argument.strip() or conversation.model
        print(conversation.model, file=sys.stderr)
    elif verb == "/help":
        print(_HELP, file=sys.stderr)
    else:
        print(f"{verb} is no command; /help lists them.", file=sys.stderr)


async def _answer(conversation: Conversation, prompt: str, out: TextIO) -> None:
    """Ask, and write the answer as it comes; a turn without any answer is as if it had not been asked."""
    if not prompt:
        raise ConfigError("There is nothing to ask: the prompt is empty.")
    conversation.turns.append(Message("user", prompt))
    watch = _Stopwatch()
    said: list[str] = []
    try:
        async with ChatClient(conversation.target) as client:
            pieces = client.stream(
                conversation.messages(), model=conversation.model, temperature=conversation.temperature
            )
            async with contextlib.aclosing(pieces):
                async for piece in pieces:
                    watch.note(piece.text, piece.num_tokens)
                    said.append(piece.text)
                    out.write(_CONTROL.sub("", piece.text) if out.isatty() else piece.text)
                    out.flush()
        out.write("\n")
        if conversation.stats:
            print(watch.summary(), file=sys.stderr)
    finally:
        if text := "".join(said):
            conversation.turns.append(Message("assistant", text))
        else:
            conversation.turns.pop()


class _Stopwatch:
    """The times of the first and the last text, and the number of tokens."""

    def __init__(self) -> None:
        self._start_s = time.perf_counter()
        self._first_s: float | None = None
        self._last_s = self._start_s
        self._num_texts = 0
        self._num_tokens: int | None = None

    def note(self, text: str, num_tokens: int | None) -> None:
        """Note the time of an event."""
        self._num_tokens = num_tokens if num_tokens is not None else self._num_tokens
        if text:
            self._last_s = time.perf_counter()
            self._first_s = self._first_s or self._last_s
            self._num_texts += 1

    def summary(self) -> str:
        """Return one line; a rate only if there is more than one token to count."""
        if self._first_s is None:
            return "no tokens"
        num_tokens = self._num_tokens or self._num_texts
        first = f"first token {(self._first_s - self._start_s) * 1000:.0f} ms, {num_tokens} tokens"
        elapsed_s = self._last_s - self._first_s
        return f"{first}, {(num_tokens - 1) / elapsed_s:.1f} tok/s" if num_tokens > 1 and elapsed_s > 0 else first


def _first_that_chats(models: Sequence[Mapping[str, object]], base_url: str) -> str:
    """Return the first model that is no encoder: by its `kind` if the server tells it, else by its name."""
    for model in models:
        is_encoder = model["kind"] != "decoder" if "kind" in model else _EMBEDDER.search(str(model["id"]))
        if not is_encoder:
            return str(model["id"])
    raise ChatError(f"{base_url} has no model that chats; name one with --model.")

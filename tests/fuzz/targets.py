"""The parsers of what strangers send, each as a function of bytes that returns, or fails.

A parser may refuse with an error of ours. Anything else that it raises is a finding, and so is a result that breaks
what the parser promises: a stream's pieces say what the whole says, a refusal names a reason.
"""

from __future__ import annotations

import functools
import io
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from appliance.bundle.archive import BundleArchive
from appliance.bundle.manifest import Manifest
from appliance.bundle.signing import read_signature
from appliance.discovery.record import ServiceRecord, clean_properties, instance_name, txt_size_bytes
from appliance.engine.runtime.grammar import GrammarCompiler, Vocabulary
from appliance.errors import LanternError
from appliance.remote.known_devices import KnownDevices
from appliance.server.http.json_body import parse_json
from appliance.server.http.wire import Wire, parse_as
from appliance.server.state.sealing import Sealer
from appliance.server.v1.chat.closed_schema import closed
from appliance.server.v1.chat.wire import ChatRequest
from appliance.server.v1.completions.wire import CompletionsRequest
from appliance.server.v1.responses.wire import ResponseRequest
from appliance.text.reasoning import ReasoningDelta, ReasoningSplitter
from appliance.text.template import ChatTemplate
from appliance.text.tokenizer import Tokenizer
from appliance.text.tool_calls import FORMAT_NAMES, make_parser
from appliance.text.tool_calls.events import ArgumentsDelta, CallStart, Event, TextDelta
from quantize.sources.gguf_header import read_gguf
from quantize.sources.tensors import read_header

_TOOLS = [{"type": "function", "function": {"name": name, "parameters": {"type": "object"}}} for name in ("f", "get")]
_MESSAGES = ({"role": "user", "content": "What is the time?"},)
_MAX_TXT_BYTES = 1300


def manifest(data: bytes) -> None:
    """Parse a bundle's manifest; a valid one is written and read again as the same."""
    with _refusals():
        found = Manifest.from_bytes(data)
        assert Manifest.from_bytes(found.model_dump_json().encode()) == found


def signature(data: bytes) -> None:
    """Parse a signature file."""
    with _refusals():
        read_signature(data)


def archive(data: bytes) -> None:
    """List an archive, and read a member."""
    with _refusals():
        BundleArchive(io.BytesIO(data)).read("manifest.json")


def txt_record(data: bytes) -> None:
    """Read the TXT record of another device; one that was read can be announced."""
    pairs = [part.partition(b"=") for part in data.split(b"\0")]
    properties = {key: value if sign else None for key, sign, value in pairs}
    assert all(text.isprintable() for text in clean_properties(properties).values())
    instance_name(data.decode("utf-8", "replace"))
    record = ServiceRecord.from_txt(properties)
    assert txt_size_bytes(record.to_txt()) <= _MAX_TXT_BYTES


def json_body(data: bytes) -> None:
    """Parse a body; what was parsed can be written."""
    with _refusals():
        json.dumps(parse_json(data)).encode()


def chat_request(data: bytes) -> None:
    """Validate the body of a chat."""
    _request(ChatRequest, data)


def completion_request(data: bytes) -> None:
    """Validate the body of a completion."""
    _request(CompletionsRequest, data)


def response_request(data: bytes) -> None:
    """Validate the body of a response."""
    _request(ResponseRequest, data)


def schema(data: bytes) -> None:
    """Compile a JSON Schema to a grammar."""
    with _refusals():
        found = parse_json(data)
        if isinstance(found, dict):
            _grammars().json_schema(closed(found), param="schema")


def template(data: bytes) -> None:
    """Compile a chat template and render a message with it."""
    with _refusals():
        source = data.decode("utf-8", "replace")
        ChatTemplate(source, ("<s>", "</s>"), max_characters=10_000, timeout_s=1.0).render(_MESSAGES)


def tool_calls(data: bytes) -> None:
    """Read tool calls from an answer: in pieces, and as a whole."""
    head, text = data[:2], data[2:].decode("utf-8", "replace")
    name = FORMAT_NAMES[head[0] % len(FORMAT_NAMES)] if head else FORMAT_NAMES[0]
    size = 1 + (head[1] % 7 if len(head) > 1 else 0)
    whole, pieces = make_parser(name, _TOOLS), make_parser(name, _TOOLS)
    expected = [*whole.push(text), *whole.finish()]
    found = [event for at in range(0, len(text), size) for event in pieces.push(text[at : at + size])]
    assert _joined([*found, *pieces.finish()]) == _joined(expected)


def reasoning(data: bytes) -> None:
    """Split reasoning from an answer: in pieces, and as a whole; no visible text is lost."""
    text = data.decode("utf-8", "replace")
    whole, pieces = ReasoningSplitter(), ReasoningSplitter()
    expected = [*whole.push(text), *whole.finish()]
    found = [event for character in text for event in pieces.push(character)] + pieces.finish()
    assert _by_kind(found) == _by_kind(expected)


def tokenizer(data: bytes) -> None:
    """Build a tokenizer from a file, and encode with it."""
    with _refusals():
        Tokenizer(data).encode("a lantern\n")


def gguf(data: bytes) -> None:
    """Read the head of a GGUF file."""
    with _refusals(), _file(data, ".gguf") as path:
        read_gguf(path)


def safetensors(data: bytes) -> None:
    """Read the head of a safetensors file."""
    with _refusals(), _file(data, ".safetensors") as path:
        read_header(path)


def known_devices(data: bytes) -> None:
    """Read the file of known devices."""
    with _refusals(), _file(data, "") as path:
        KnownDevices.load(path)


def sealed(data: bytes) -> None:
    """Open sealed reasoning that a client sends back: none that was not sealed here opens."""
    assert Sealer(bytes(32)).open("lr1." + data.decode("latin-1")) is None


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target
    for target in (
        *(manifest, signature, archive, txt_record, json_body, chat_request, completion_request, response_request),
        *(schema, template, tool_calls, reasoning, tokenizer, gguf, safetensors, known_devices, sealed),
    )
}


@contextmanager
def _refusals() -> Iterator[None]:
    refused: LanternError | None = None
    try:
        yield
    except LanternError as err:
        refused = err
    assert refused is None or refused.message, "a refusal without a reason"


@contextmanager
def _file(data: bytes, suffix: str) -> Iterator[Path]:
    with tempfile.NamedTemporaryFile(suffix=suffix) as file:
        file.write(data)
        file.flush()
        yield Path(file.name)


def _request(model: type[Wire], data: bytes) -> None:
    with _refusals():
        parse_as(model, parse_json(data))


@functools.cache
def _grammars() -> GrammarCompiler:
    """Return a compiler for a vocabulary of single bytes and an end."""
    vocabulary = Vocabulary([bytes([i]) for i in range(256)] + [b"</s>"], {256}, (256,), lambda text: [*text.encode()])
    return GrammarCompiler(vocabulary, vocab_size=257)


def _joined(events: list[Event]) -> list[tuple[str, str]]:
    """Join what follows each other of one kind, since pieces may be cut anywhere."""
    found: list[tuple[str, str]] = []
    for event in events:
        match event:
            case TextDelta():
                kind, text = "text", event.text
            case ArgumentsDelta():
                kind, text = "arguments", event.text
            case CallStart():
                kind, text = f"call {event.name}", ""
            case _:
                kind, text = "end", ""
        if found and found[-1][0] == kind and kind in {"text", "arguments"}:
            found[-1] = (kind, found[-1][1] + text)
        else:
            found.append((kind, text))
    return found


def _by_kind(events: Sequence[ReasoningDelta | TextDelta]) -> dict[str, str]:
    found: dict[str, str] = {}
    for event in events:
        name = type(event).__name__
        found[name] = found.get(name, "") + event.text
    return found


if __name__ == "__main__":
    sys.stdout.write("\n".join(TARGETS) + "\n")

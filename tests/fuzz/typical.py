"""Inputs from which fuzzing begins: typical ones, odd ones, and real files of the golden bundle."""

from __future__ import annotations

import json
import struct
import tarfile
from pathlib import Path

TYPICAL: dict[str, list[bytes]] = {
    "manifest": [b"{}", b"[]", b"\xff", b'{"name": "a"}'],
    "signature": [b"", b"{}", b'{"signer": "0", "signature": "="}'],
    "archive": [b"", b"PK\x05\x06" + bytes(18), b"x" * 512, b"manifest.json" + bytes(499)],
    "txt_record": [b"id=1\0v=1\0apis=openai,x\0=\0port=99999", b"state=\xff\0models=-1"],
    "json_body": [b"", b"[" * 5000, b'"\\ud800"', b"1e999", b"NaN", b'{"a":1,"a":2}', b"\xef\xbb\xbf{}"],
    "chat_request": [b'{"model":"m","messages":[{"role":"user","content":"x"}]}', b'{"messages":[[]]}'],
    "completion_request": [b'{"model":"m","prompt":[[1,2],[3]]}', b'{"model":"m","prompt":[1,"a"]}'],
    "response_request": [b'{"model":"m","input":[{"type":"x"}]}', b'{"model":"m","input":"x","tools":[{}]}'],
    "schema": [json.dumps({"$ref": "#"}).encode(), b'{"pattern":"(?=a)"}', b'{"enum":[]}', b'{"type":["null"]}'],
    "template": [b"{{ messages }}", b"{% for m in messages %}", b"{{ ''.__class__ }}", b"{{ 9**9**9 }}"],
    "tool_calls": [bytes([i, 2]) + b'<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>' for i in range(7)],
    "reasoning": [b"<think>a</think>b", b"<think>", b"</think>", b" <thi", b"<think></think><think>x"],
    "tokenizer": [b"{}", b"null", b'{"model":{"type":"BPE","vocab":{},"merges":[]}}'],
    "gguf": [b"GGUF", b"GGUF\x03\0\0\0" + b"\xff" * 16, b"GGUF\x03\0\0\0" + bytes(16)],
    "safetensors": [b"", bytes(8), b"\x02" + bytes(7) + b"{}", b"\xff" * 16],
    "known_devices": [b"#\n\n", b"a b c d\n", b"\xff\n", b"0123456789abcdef sha256//x= 2026 \n"],
    "sealed": [b"", b"AAAA", b"=" * 40],
}

_GOLDEN = Path(__file__).parents[1] / "golden" / "0.1.0.tar.xz"
_FILES = {
    "manifest": "manifest.json",
    "signature": "manifest.sig",
    "tokenizer": "tokenizer.json",
    "template": "chat_template.jinja",
    "known_devices": "known_devices",
}


def real_inputs(target: str) -> list[bytes]:
    """Return real files of the kind that a target reads."""
    match target:
        case "gguf":
            return [_gguf()]
        case "safetensors":
            head = b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
            return [struct.pack("<Q", len(head)) + head + bytes(8)]
        case name if name in _FILES:
            with tarfile.open(_GOLDEN) as archive:
                members = [m for m in archive.getmembers() if Path(m.name).name == _FILES[name]]
                files = [archive.extractfile(member) for member in members]
                return [file.read() for file in files if file is not None]
        case _:
            return []


def _gguf() -> bytes:
    """Return a file of one tensor and two keys."""
    name, text = b"general.architecture", b"llama"
    keys = struct.pack("<Q", len(name)) + name + struct.pack("<IQ", 8, len(text)) + text
    keys += struct.pack("<Q", 1) + b"n" + struct.pack("<II", 4, 7)
    tensor = struct.pack("<Q", 1) + b"w" + struct.pack("<IQIQ", 1, 8, 0, 0)
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, 2) + keys + tensor
    return head + bytes(-len(head) % 32) + bytes(32)

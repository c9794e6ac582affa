"""Somebody on the LAN: claims the device, and uses the OpenAI SDK."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import ssl
import subprocess
import sys
import tempfile
import urllib.request
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from openai import OpenAI

from tests.images.boots.board import Board

CHAT = "smollm2-135m-instruct"
EMBEDDING = "all-minilm-l6-v2"
_TIMEOUT_S = 600.0


class User:
    """Has the key once the device is claimed."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self.key = ""

    def claim(self) -> None:
        """Over HTTPS, as a key must not cross a network in clear."""
        self.key = self.administer("POST", "/admin/claim", {"name": "owner"})["key"]

    def administer(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """One administrative request; an HTTPError where the device refuses."""
        request = urllib.request.Request(
            f"{self._board.tls_url}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", "Authorization": f"Bearer {self.key}"},
        )
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S, context=self._any_certificate()) as answer:
            result: dict[str, Any] = json.load(answer)
            return result

    def lantern(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The command on this workstation, with the key, and a home of its own."""
        with tempfile.TemporaryDirectory() as home:
            environment = {**os.environ, "LANTERN_HOME": home, "LANTERN_API_KEY": self.key}
            command = [sys.executable, "-m", "appliance", *arguments]
            return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    def pin(self) -> str:
        """The fingerprint of the certificate that the device shows."""
        pem = ssl.get_server_certificate(("127.0.0.1", self._board.ports["https"]), timeout=60)
        public = x509.load_pem_x509_certificate(pem.encode()).public_key()
        data = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        return "sha256//" + base64.b64encode(hashlib.sha256(data).digest()).decode("ascii")

    def sdk(self) -> OpenAI:
        return OpenAI(base_url=f"{self._board.base_url}/v1", api_key=self.key, timeout=_TIMEOUT_S, max_retries=0)

    def ask(self, question: str = "What is the capital of France?") -> str:
        """A chat completion's text."""
        with self.sdk() as client:
            answer = client.chat.completions.create(
                model=CHAT, messages=[{"role": "user", "content": question}], max_tokens=16, temperature=0
            )
        return answer.choices[0].message.content or ""

    def likeness(self, one: str, other: str) -> float:
        """The cosine of two texts' embeddings."""
        with self.sdk() as client:
            a, b = (d.embedding for d in client.embeddings.create(model=EMBEDDING, input=[one, other]).data)
        return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)

    @staticmethod
    def _any_certificate() -> ssl.SSLContext:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context

"""Somebody on the LAN: claims the device, and uses the OpenAI SDK."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import re
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
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

    def __init__(self, board: Board, homes: Path) -> None:
        self._board = board
        self._homes = homes
        self.key = ""

    def claim(self) -> None:
        """With the command and the code on the screen, over HTTPS, as a key must not cross a network in clear."""
        code = self._board.wait_for(r"Claim code  ([0-9A-Z]{4}-[0-9A-Z]{4})")[1]
        refused = self.lantern("claim", "--device", self._board.tls_url, "--as", "owner")
        assert "the code on its screen" in refused.stderr
        result = self.lantern("claim", "--device", self._board.tls_url, "--as", "owner", "--code", code)
        assert result.returncode == 0, result.stderr
        found = re.search(r"^sk-\S+$", result.stdout, re.MULTILINE)
        assert found, result.stdout
        self.key = found[0]
        assert self.pin() in result.stdout

    def claim_without_code(self) -> None:
        """Claim a device of 0.1.0, which gives itself to the first client."""
        result = self.lantern("claim", "--device", self.url, "--as", "owner")
        assert result.returncode == 0, result.stderr
        found = re.search(r"^sk-\S+$", result.stdout, re.MULTILINE)
        assert found, result.stdout
        self.key = found[0]

    @property
    def url(self) -> str:
        """The device's address for commands."""
        return self._board.tls_url

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
            command = [sys.executable, "-m", "appliance", *arguments]
            return subprocess.run(
                command,
                env=self._environment(home),
                stdin=subprocess.DEVNULL,  # a terminal would be asked for the claim code
                capture_output=True,
                text=True,
                check=False,
            )

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """The same without waiting for its end; homes of these go with the test run's folder."""
        home = tempfile.mkdtemp(dir=self._homes)
        command = [sys.executable, "-m", "appliance", *arguments]
        return subprocess.Popen(
            command, env=self._environment(home), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=False
        )

    def pin(self) -> str:
        """The fingerprint of the certificate that the device shows."""
        pem = ssl.get_server_certificate(("127.0.0.1", self._board.ports["https"]), timeout=60)
        public = x509.load_pem_x509_certificate(pem.encode()).public_key()
        data = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        return "sha256//" + base64.b64encode(hashlib.sha256(data).digest()).decode("ascii")

    def sdk(self) -> OpenAI:
        return OpenAI(base_url=f"{self._board.base_url}/v1", api_key=self.key, timeout=_TIMEOUT_S, max_retries=0)

    def ask(self, model: str = CHAT) -> str:
        """A chat completion's text."""
        return self.ask_and_watch(model)[0]

    def ask_and_watch(self, model: str = CHAT) -> tuple[str, float]:
        """A streamed chat completion's text, and when its first token came by the monotonic clock."""
        text, first_s = "", 0.0
        with self.sdk() as client:
            stream = client.chat.completions.create(
                model=model,
                messages=[{"role": "user", "content": "Name the capital city of France."}],
                max_tokens=16,
                temperature=0,
                stream=True,
            )
            for chunk in stream:
                text += "".join(choice.delta.content or "" for choice in chunk.choices)
                if text and not first_s:
                    first_s = time.monotonic()
        return text, first_s

    def likeness(self, one: str, other: str, model: str = EMBEDDING) -> float:
        """The cosine of two texts' embeddings."""
        with self.sdk() as client:
            a, b = (d.embedding for d in client.embeddings.create(model=model, input=[one, other]).data)
        return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)

    def _environment(self, home: str) -> dict[str, str]:
        nowhere = "keyring.backends.null.Keyring"
        return {**os.environ, "LANTERN_HOME": home, "LANTERN_API_KEY": self.key, "PYTHON_KEYRING_BACKEND": nowhere}

    @staticmethod
    def _any_certificate() -> ssl.SSLContext:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context

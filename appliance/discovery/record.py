"""The DNS-SD record: what it says, as TXT bytes and back; pure.

Everything that was read from the network is a hint. Reading never raises: a field that is not of the expected shape
takes its default, so that a hostile record costs nothing but itself. Knows no sockets.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from appliance.errors import DiscoveryError

SERVICE_TYPE = "_lantern._tcp.local."  # RFC 6335: at most 15 characters
OPENAI_ALIAS = "_openai._tcp.local."  # browsed by some clients; not ours to claim, so it is off unless asked for

MAX_TXT_BYTES = 400
_TXT_VERSION = "1"
_MAX_NAME_BYTES = 56  # RFC 6763 section 4.1.1 allows 63; the rest is room for a "-2" after a conflict
_MAX_VALUE_CHARS = 96
_MAX_PROPERTIES = 32
_MAX_MODELS = 9999
_MAX_PORT = 65535

_PATH = re.compile(r"/[A-Za-z0-9/_-]{0,32}")
_ID = re.compile(r"[0-9a-f]{16}")
_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+!-]{0,31}")
_FINGERPRINT = re.compile(r"[0-9A-Za-z+/=_:-]{1,64}")
_API = re.compile(r"[a-z]{1,12}")
_KEY = re.compile(r"[a-z0-9_-]{1,9}")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff]")


class State(StrEnum):
    """The server's state: starting, ready or busy with stopping."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


class Auth(StrEnum):
    """The server's kind of authentication."""

    NONE = "none"
    BEARER = "bearer"


@dataclass(frozen=True, slots=True)
class ServiceRecord:
    """The announcement of a device; `fingerprint` pins its certificate, if it has one.

    `tls_port` is where it speaks HTTPS beside the plain HTTP of the port announced.
    """

    device_id: str | None
    version: str | None = None
    auth: Auth = Auth.BEARER
    apis: tuple[str, ...] = ()
    num_models: int = 0
    state: State = State.READY
    proto: str = "http"
    path: str = "/v1"
    fingerprint: str | None = None
    tls_port: int | None = None

    def to_txt(self) -> dict[bytes, bytes]:
        """Return the TXT strings in the order in which they are sent, `txtvers` first (RFC 6763 section 6.7).

        Raises:
            DiscoveryError: a field that a reader would not accept, or more than 400 bytes in all.
        """
        fields = {
            "txtvers": _TXT_VERSION,
            "path": self.path,
            "proto": self.proto,
            "auth": self.auth.value,
            "api": ",".join(self.apis),
            "models": str(self.num_models),
            "id": self.device_id,
            "ver": self.version,
            "fp": self.fingerprint,
            "tls": str(self.tls_port or ""),
            "st": self.state.value,
        }
        txt = {key.encode(): value.encode() for key, value in fields.items() if value}
        if (size_bytes := txt_size_bytes(txt)) > MAX_TXT_BYTES:
            raise DiscoveryError(f"The service record has {size_bytes} bytes, and {MAX_TXT_BYTES} is the most allowed.")
        if ServiceRecord.from_txt(dict(txt)) != self:
            raise DiscoveryError(f"A field of the service record cannot be announced: {fields}.")
        return txt

    @classmethod
    def from_txt(cls, txt: Mapping[bytes, bytes | None]) -> ServiceRecord:
        """Parse the record that foreign TXT strings describe; each odd value keeps its default."""
        hints = clean_properties(txt)
        if hints.get("txtvers", _TXT_VERSION) != _TXT_VERSION:
            hints = {}  # a later format: the same keys may mean something else
        return cls(
            device_id=_matching(_ID, hints.get("id")),
            version=_matching(_VERSION, hints.get("ver")),
            auth=Auth.NONE if hints.get("auth") == Auth.NONE else Auth.BEARER,
            apis=_apis(hints.get("api", "")),
            num_models=_count(hints.get("models", "")),
            state=next((state for state in State if state == hints.get("st")), State.READY),
            proto="https" if hints.get("proto") == "https" else "http",
            path=_matching(_PATH, hints.get("path")) or "/v1",
            fingerprint=_matching(_FINGERPRINT, hints.get("fp")),
            tls_port=_port(hints.get("tls", "")),
        )

    @property
    def http_type(self) -> str:
        """The general type that web clients browse for."""
        return f"_{self.proto}._tcp.local."

    @property
    def openai_subtype(self) -> str:
        """Selects the servers of the OpenAI API among all web servers (RFC 6763 section 7.1)."""
        return f"_openai._sub.{self.http_type}"


def instance_name(wanted: str) -> str:
    """Return `wanted` as one DNS label: no control characters, no dots, and room for a suffix after a conflict."""
    label = " ".join(_UNPRINTABLE.sub(" ", wanted).replace(".", " ").split())
    return label.encode("utf-8", "ignore")[:_MAX_NAME_BYTES].decode("utf-8", "ignore").strip() or "lantern"


def printable(text: str, *, max_chars: int = _MAX_VALUE_CHARS) -> str:
    """Foreign text that is safe on a terminal and in a log line."""
    return _UNPRINTABLE.sub("�", text[:max_chars])


def clean_properties(txt: Mapping[bytes, bytes | None]) -> dict[str, str]:
    """Return the well-formed ones of foreign TXT strings, as printable text; keys are not case-sensitive."""
    properties: dict[str, str] = {}
    for raw_key, raw_value in list(txt.items())[:_MAX_PROPERTIES]:
        key = raw_key.decode("ascii", "replace").lower()
        if _KEY.fullmatch(key) and key not in properties:
            properties[key] = printable((raw_value or b"").decode("utf-8", "replace"))
    return properties


def txt_size_bytes(txt: Mapping[bytes, bytes]) -> int:
    """Size on the wire: each string is one length byte, the key, an equals sign, the value."""
    return sum(len(key) + len(value) + 2 for key, value in txt.items())


def _matching(pattern: re.Pattern[str], value: str | None) -> str | None:
    return value if value is not None and pattern.fullmatch(value) else None


def _apis(value: str) -> tuple[str, ...]:
    return tuple(api for api in value.split(",")[:6] if _API.fullmatch(api))


def _port(value: str) -> int | None:
    return int(value) if re.fullmatch(r"[1-9][0-9]{0,4}", value) and int(value) <= _MAX_PORT else None


def _count(value: str) -> int:
    return min(int(value), _MAX_MODELS) if re.fullmatch(r"[0-9]{1,6}", value) else 0

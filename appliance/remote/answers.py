"""The parts of a device's answers that the client's side reads, checked before anything reads them.

The server declares its answers at its routes. This is less: what no command reads may be absent, since a device of
0.1.0 does not send it, and fields of a later version are passed on. Whatever answers, a command reads a value of the
declared type or ends with one sentence.
"""

from __future__ import annotations

from typing import Annotated, Generic, NotRequired, TypeVar

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from appliance.discovery.record import printable
from appliance.errors import DeviceError

T = TypeVar("T")

Text = Annotated[str, AfterValidator(lambda text: printable(text, max_chars=len(text)))]
"""Foreign text that is safe on a terminal."""
Count = Annotated[int, Field(ge=0, lt=1 << 63)]
Time = Annotated[int, Field(ge=0, lt=1 << 37)]
"""Seconds since 1970, in a year of four digits."""

_MAX_SENTENCE_CHARS = 500


class AnswerType(Generic[T]):
    """A declared answer; `of` reads a foreign value as one."""

    def __init__(self, declared: type[T]) -> None:
        self.declared = declared
        self._adapter = TypeAdapter(declared)

    def of(self, value: object, *, device: str, request: str) -> T:
        """Return the value with all its fields, also those that are not declared.

        Args:
            value: parsed JSON.
            device: the device's address, for the sentence.
            request: method and path, for the sentence.

        Raises:
            DeviceError: naming the first field that is absent or of another type.
        """
        try:
            return self._adapter.validate_python(value)
        except ValidationError as err:
            first = err.errors(include_url=False)[0]
            field = _field(first["loc"])
            why = f"without {field}" if first["type"] == "missing" else f"with {field} wrong ({first['msg'].lower()})"
            raise not_as_expected(device, request, why) from None


def not_as_expected(device: str, request: str, why: str) -> DeviceError:
    """Return the error of an answer that no device of a version that we know gives."""
    said = f"{device} answered {request} {why}; it runs another version of Lantern, or something else"
    return DeviceError(printable(said, max_chars=_MAX_SENTENCE_CHARS), status=200)


def _field(location: tuple[int | str, ...]) -> str:
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return f"the field {path.removeprefix('.')!r}" if path else "an object"


@with_config(ConfigDict(strict=True, extra="allow"))
class _Read(TypedDict):
    """Base of what is read of an answer."""


class _Quality(_Read):
    kl_here: NotRequired[float]


class _Model(_Read):
    name: Text
    digest: Text | None
    versions: list[Text]
    kind: NotRequired[Text]
    size_bytes: NotRequired[Count]
    signer: NotRequired[Text]
    quality: NotRequired[_Quality]
    built_for: NotRequired[Text]
    is_built_for_here: NotRequired[bool]
    loaded: bool
    aliases: list[Text]
    problem: Text | None


class _Storage(_Read):
    free_bytes: Count | None


class _Memory(_Read):
    free_bytes: Count


class _Overview(_Read):
    models: list[_Model]
    storage: _Storage
    memory: _Memory


class _Installation(_Overview):
    installed: NotRequired[Text | None]


class _Aliases(_Read):
    aliases: dict[Text, Text]


class _Trusted(_Read):
    trusted: list[Text]


class _Trust(_Read):
    added: Text


class _SafeMode(_Read):
    active: bool


class _Request(_Read):
    at: Time
    method: Text
    route: Text
    status: Text
    duration_ms: Count
    key: Text
    peer: Text
    prompt_tokens: Count
    generated_tokens: Count


class _Requests(_Read):
    requests: list[_Request]


class _Key(_Read):
    id: Text
    name: Text
    role: Text
    rate: Count | None
    created: Time


class _Keys(_Read):
    keys: list[_Key]


class _Secret(_Read):
    key: Annotated[Text, Field(min_length=1)]


class _Update(_Read):
    running: Text
    step: Text
    version: Text
    detail: Text


class _UploadBegun(_Read):
    state: Text


class _File(_Read):
    name: Text
    size_bytes: Count
    received: Count


class _Upload(_Read):
    id: Text
    files: list[_File]


class _Piece(_Read):
    received: Count


OVERVIEW = AnswerType(_Overview)
INSTALLATION = AnswerType(_Installation)
ALIASES = AnswerType(_Aliases)
TRUSTED = AnswerType(_Trusted)
TRUST = AnswerType(_Trust)
SAFE_MODE = AnswerType(_SafeMode)
REQUESTS = AnswerType(_Requests)
KEYS = AnswerType(_Keys)
SECRET = AnswerType(_Secret)
UPDATE = AnswerType(_Update)
UPLOAD_BEGUN = AnswerType(_UploadBegun)
UPLOAD = AnswerType(_Upload)
PIECE = AnswerType(_Piece)

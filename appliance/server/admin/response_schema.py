"""What administration answers, for /openapi.json and for whoever checks real answers against it."""

from __future__ import annotations

from typing import Literal

from pydantic.json_schema import SkipJsonSchema

from appliance.server.response_schema import Answer

Absent = SkipJsonSchema[None]  # the field is left out, and never null


class SafeMode(Answer):
    """Whether no model is loaded, since the appliance failed too often."""

    active: bool


class ApiKeyInfo(Answer):
    """A key, without the key; `rate` is requests a minute, null for any number."""

    id: str
    name: str
    role: Literal["inference", "administration"]
    rate: int | None
    created: int


class ApiKeyList(Answer):
    """Every key that was made here."""

    keys: list[ApiKeyInfo]


class NewApiKey(ApiKeyInfo):
    """A key, this once."""

    key: str


class ClaimedKey(Answer):
    """The first administration key, this once."""

    id: str
    name: str
    role: Literal["administration"]
    key: str


class InstalledModel(Answer):
    """What is installed of a model; of a damaged one only its name, its versions and the problem are known."""

    name: str
    digest: str | None
    versions: list[str]
    kind: Literal["decoder", "encoder", "reranker"] | Absent = None
    version: str | Absent = None
    size_bytes: int | Absent = None
    license: str | Absent = None
    source: str | Absent = None
    signer: str | Absent = None
    loaded: bool
    aliases: list[str]
    problem: str | None


class Storage(Answer):
    """Where models are kept."""

    free_bytes: int | None


class Memory(Answer):
    """What is free now, and what the loaded models have reserved."""

    free_bytes: int
    models_bytes: int


class Overview(Answer):
    """What is installed, served and free."""

    models: list[InstalledModel]
    storage: Storage
    memory: Memory


class AliasMap(Answer):
    """Alias to model."""

    aliases: dict[str, str]


class TrustedKeyList(Answer):
    """The ids of the keys whose bundles run here."""

    trusted: list[str]
    added: str | Absent = None


class UploadedFile(Answer):
    """How much of a file is there."""

    name: str
    size_bytes: int
    received: int


class UploadState(Answer):
    """A bundle on its way in."""

    id: str
    state: Literal["uploading", "installing"]
    name: str
    files: list[UploadedFile]


class UploadList(Answer):
    """Those that are not installed yet."""

    uploads: list[UploadState]


class UploadBegun(Answer):
    """An upload that is new or goes on; or, where exactly this bundle serves, what is installed."""

    state: Literal["uploading", "installing", "installed"]
    id: str | Absent = None
    name: str | Absent = None
    files: list[UploadedFile] | Absent = None
    models: list[InstalledModel] | Absent = None
    storage: Storage | Absent = None
    memory: Memory | Absent = None


class UploadRemoved(Answer):
    """The upload that is forgotten."""

    removed: str


class Installed(Overview):
    """What serves after an install."""

    state: Literal["installed"]
    installed: str


class UpdateState(Answer):
    """The running system, and what became of the last update."""

    object: Literal["update"]
    running: str
    step: str
    version: str
    detail: str
    failed: str
    received: int


class UpdatePiece(Answer):
    """How much of an update is there."""

    object: Literal["update"]
    received: int

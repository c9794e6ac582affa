"""The administration in /openapi.json, from the models that its requests are parsed with."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from pydantic import BaseModel

from appliance.server.admin import response_schema as answers
from appliance.server.admin import safe_mode, update
from appliance.server.admin.aliases import AliasRequest
from appliance.server.admin.claim import ClaimRequest
from appliance.server.admin.keys import KeyRequest
from appliance.server.admin.trust import TrustRequest
from appliance.server.admin.uploads import PIECE_TYPE, UploadRequest
from appliance.server.operations import Operation, in_header, in_path, operation

REQUESTS: tuple[type[BaseModel], ...] = (
    *(AliasRequest, ClaimRequest, KeyRequest, TrustRequest, UploadRequest),
    *(update.BeginRequest, update.FinishRequest),
)
ANSWERS: tuple[type[BaseModel], ...] = (
    *(answers.AliasMap, answers.ApiKeyList, answers.ClaimedKey, answers.Installed, answers.NewApiKey),
    *(answers.Overview, answers.SafeMode, answers.TrustedKeyList, answers.UpdatePiece, answers.UpdateState),
    *(answers.UploadBegun, answers.UploadedFile, answers.UploadList, answers.UploadRemoved, answers.UploadState),
)

_KEY = [{"key": list[str]()}]
_MODEL = in_path("name", "The name of an installed model.")
_ALIAS = in_path("alias", "Another name for a model; it may hold slashes and colons.")
_UPLOAD = in_path("id", "The id of an upload.")
_RANGE = "The bytes of the body, as `bytes FIRST-LAST/SIZE`"
_RANGE_PATTERN = r"^bytes \d{1,12}-\d{1,12}/\d{1,12}$"


def paths() -> dict[str, dict[str, Operation]]:
    """Every path below /admin."""
    return {
        "/admin/claim": {
            "post": operation(
                "claimDevice",
                "The first administration key, for whoever asks first",
                {HTTPStatus.CREATED: answers.ClaimedKey},
                takes=ClaimRequest,
                security=[{}],
            )
        },
        safe_mode.PATH: {
            "get": _admin("getSafeMode", "Whether no model is loaded", answers.SafeMode),
            "delete": _admin("leaveSafeMode", "Start with the models again", {HTTPStatus.ACCEPTED: answers.SafeMode}),
        },
        **_models(),
        **_access(),
        **_uploads(),
        update.PATH: _update(),
    }


def _models() -> dict[str, dict[str, Operation]]:
    of_model, of_alias = {"parameters": [_MODEL]}, {"parameters": [_ALIAS]}
    return {
        "/admin/models": {"get": _admin("listInstalledModels", "What is installed and free", answers.Overview)},
        "/admin/models/{name}": {"delete": _admin("removeModel", "Uninstall a model", answers.Overview, **of_model)},
        "/admin/models/{name}/rollback": {
            "post": _admin("rollBackModel", "Let the version before serve", answers.Overview, **of_model)
        },
        "/admin/aliases": {"get": _admin("listAliases", "Other names of models", answers.AliasMap)},
        "/admin/aliases/{alias}": {
            "put": _admin("setAlias", "Give another name", answers.AliasMap, takes=AliasRequest, **of_alias),
            "delete": _admin("removeAlias", "Take it back", answers.AliasMap, **of_alias),
        },
    }


def _access() -> dict[str, dict[str, Operation]]:
    of_key, of_signer = [in_path("name", "The name of a key.")], [in_path("key_id", "The id of a signing key.")]
    new_key, trusted = {HTTPStatus.CREATED: answers.NewApiKey}, {HTTPStatus.CREATED: answers.TrustedKeyList}
    return {
        "/admin/keys": {
            "get": _admin("listKeys", "What keys there are", answers.ApiKeyList),
            "post": _admin("createKey", "Make a key", new_key, takes=KeyRequest),
        },
        "/admin/keys/{name}": {"delete": _admin("revokeKey", "Forget a key", answers.ApiKeyList, parameters=of_key)},
        "/admin/trust": {
            "get": _admin("listTrusted", "Whose bundles run here", answers.TrustedKeyList),
            "post": _admin("trustSigner", "Run what a key signed", trusted, takes=TrustRequest),
        },
        "/admin/trust/{key_id}": {
            "delete": _admin("distrustSigner", "Run it no more", answers.TrustedKeyList, parameters=of_signer)
        },
    }


def _uploads() -> dict[str, dict[str, Operation]]:
    of_upload = {"parameters": [_UPLOAD]}
    of_file = [_UPLOAD, in_path("name", "The name of a file."), _range(required=False)]
    begun = {HTTPStatus.OK: answers.UploadBegun, HTTPStatus.CREATED: answers.UploadBegun}
    return {
        "/admin/uploads": {
            "get": _admin("listUploads", "Bundles on their way in", answers.UploadList),
            "post": _admin("beginUpload", "Begin with a bundle, or go on", begun, takes=UploadRequest),
        },
        "/admin/uploads/{id}": {
            "get": _admin("getUpload", "What is there of each file", answers.UploadState, **of_upload),
            "delete": _admin("removeUpload", "Forget it", answers.UploadRemoved, **of_upload),
        },
        "/admin/uploads/{id}/files/{name}": {
            "put": _admin("putPiece", "A piece of a file", answers.UploadedFile, takes=PIECE_TYPE, parameters=of_file)
        },
        "/admin/uploads/{id}/install": {
            "post": _admin("installUpload", "Verify, try and activate it", answers.Installed, **of_upload)
        },
    }


def _update() -> dict[str, Operation]:
    piece = {"takes": PIECE_TYPE, "parameters": [_range(required=True)]}
    created, accepted = {HTTPStatus.CREATED: answers.UpdateState}, {HTTPStatus.ACCEPTED: answers.UpdateState}
    return {
        "get": _admin("getUpdate", "The running system and its last update", answers.UpdateState),
        "post": _admin("beginUpdate", "Begin with an update", created, takes=update.BeginRequest),
        "put": _admin("putUpdatePiece", "A piece of it", answers.UpdatePiece, **piece),
        "patch": _admin("finishUpdate", "Check and install it", accepted, takes=update.FinishRequest),
    }


def _range(*, required: bool) -> dict[str, Any]:
    more = "." if required else "; without it the body is the whole file."
    return in_header("Content-Range", _RANGE + more, _RANGE_PATTERN, required=required)


def _admin(operation_id: str, summary: str, answer: Any, **more: Any) -> Operation:
    return operation(operation_id, summary, answer, security=_KEY, **more)

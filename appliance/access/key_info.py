"""API keys as the API answers them and as commands print them: metadata, and a secret this once."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict

from appliance.access.keystore import ApiKey, NewKey

_STRICT = ConfigDict(strict=True, extra="forbid")


@with_config(_STRICT)
class ApiKeyInfo(TypedDict):
    """A key, without the key; `rate` is requests a minute, null for any number.

    `last_used` is the time of its last request that was admitted, null if there was none.
    """

    id: str
    name: str
    role: Literal["inference", "administration"]
    rate: int | None
    created: int
    last_used: int | None


@with_config(_STRICT)
class NewApiKey(ApiKeyInfo):
    """A key, this once."""

    key: str


def describe_key(key: ApiKey, last_used_s: int | None) -> ApiKeyInfo:
    """Return the metadata of a key."""
    return {
        "id": key.id,
        "name": key.name,
        "role": key.role.value,
        "rate": key.rate,
        "created": key.created_s,
        "last_used": last_used_s,
    }


def describe_new_key(new: NewKey) -> NewApiKey:
    """Return the metadata of a key that nobody has used, with its secret."""
    return {**describe_key(new.key, None), "key": new.secret}

"""The exception tree: each class carries the HTTP status, type and code of OpenAI's error object.

Raised where a fact is known; translated once, to JSON in server/app.py and to an exit code in __main__.py.
"""

from __future__ import annotations

from typing import ClassVar


class LanternError(Exception):
    """Base of everything that we raise on purpose; the message is one sentence for the person who reads it."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str | None] = None
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class InvalidRequestError(LanternError):
    """The client sent something that can never work as it is."""

    status = 400
    type = "invalid_request_error"

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message, param=param)
        self._code = code

    @property
    def error_code(self) -> str | None:
        """The code of this instance, which may be narrower than that of its class."""
        return self._code or self.code


class ContextLengthError(InvalidRequestError):
    """The prompt does not fit into the model's context."""

    code = "context_length_exceeded"


class UnsupportedContentError(InvalidRequestError):
    """A content part of a kind that the model cannot read."""

    code = "unsupported_content"


class AuthenticationError(LanternError):
    """No key, or one that is not valid."""

    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"


class ForbiddenError(LanternError):
    """A request that this server refuses whoever sends it: a foreign Host, a cross-site call."""

    status = 403
    type = "invalid_request_error"
    code = "forbidden"


class ModelNotFoundError(LanternError):
    """No such model is installed here."""

    status = 404
    type = "invalid_request_error"
    code = "model_not_found"


class ConflictError(LanternError):
    """What is asked for does not go together with the state that things are in."""

    status = 409
    type = "invalid_request_error"
    code = "conflict"


class OverloadedError(LanternError):
    """More work than the queue takes; the client may come back."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"
    retry_after_s = 5


class UnavailableError(LanternError):
    """Starting, draining, or waited for too long."""

    status = 503
    type = "server_error"
    code = "service_unavailable"
    retry_after_s = 5


class InsufficientMemoryError(LanternError):
    """A model that this device cannot hold, whoever waits; the message has both numbers."""

    status = 503
    code = "insufficient_memory"


class StorageFullError(LanternError):
    """Too little free space for what was asked."""

    status = 507
    code = "insufficient_storage"


class ModelError(LanternError):
    """A model failed while loading or running; its cache is undefined from then on."""

    code = "model_error"


class BundleError(LanternError):
    """A model bundle that is missing, damaged, not trusted, or of an unknown format."""

    code = "bundle_error"
    exit_code = 3


class UntrustedSignerError(BundleError):
    """A bundle whose signer nobody has said to trust."""

    code = "untrusted_signer"


class ConfigError(LanternError):
    """A setting that is not valid; the message names key, value and what is allowed."""

    code = "config_error"
    exit_code = 2


class UnknownNameError(ConfigError):
    """There is nothing of this name."""

    status = 404
    type = "invalid_request_error"
    code = "not_found"


class DiscoveryError(LanternError):
    """Nothing suitable was found on the local network."""

    code = "discovery_error"
    exit_code = 4


class DeviceError(LanternError):
    """A device refused what it was asked for, or was lost while it was at it; `reason` is the code that it gave."""

    code = "device_error"
    exit_code = 7

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        reason: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.answered_status = status
        self.reason = reason
        self.retry_after_s = retry_after_s


class TrustError(LanternError):
    """A device that does not prove that it is the one we know; nothing secret was sent to it."""

    code = "trust_error"
    exit_code = 6


class QuantizeError(LanternError):
    """A checkpoint that cannot become a bundle; the message names what was not recognized."""

    code = "quantize_error"
    exit_code = 5

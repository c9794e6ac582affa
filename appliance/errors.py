"""The exception tree: each class carries the HTTP status, type and code of OpenAI's error object.

Raised where a fact is known; translated once, to JSON in server/app.py and to an exit code in __main__.py.

    LanternError                     500   our fault, or a fault of this machine
      InvalidRequestError            400   the request can never work as it is
        ContextLengthError                 the prompt is longer than the model's context
        UnsupportedContentError            a part of a kind that the model cannot read
        BodyTooLargeError            413
      AuthenticationError            401   no valid key
      ForbiddenError                 403   refused with any key
      ModelNotFoundError             404
      ConflictError                  409
      OverloadedError                429   the queue is full; come back
      UnavailableError               503   not now; come back
      InsufficientMemoryError        503   never on this device
      StorageFullError               507   the disk is full; delete something
      ModelError                     500   a model failed
      BundleError                    500   a bundle is damaged
        UntrustedSignerError
      ConfigError                    500   a setting is not valid
        UnknownNameError             404
      QuantizeError                        a checkpoint cannot become a bundle
      DiscoveryError                       nothing was found on the network
      DeviceError                          another device refused, or was lost
      TrustError                           another device is not the one that we know

Only OverloadedError and UnavailableError tell a client to come back (Retry-After).
"""

from __future__ import annotations

from typing import ClassVar


class LanternError(Exception):
    """Base of everything that we raise on purpose; the message is one sentence for the person who reads it.

    An instance may have a narrower `code` than its class. `retry_after_s` is None unless waiting can help.
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    exit_code: ClassVar[int] = 1
    code: str | None = None
    retry_after_s: float | None = None

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        if code is not None:
            self.code = code


class InvalidRequestError(LanternError):
    """The client sent something that can never work as it is."""

    status = 400
    type = "invalid_request_error"


class ContextLengthError(InvalidRequestError):
    """The prompt does not fit into the model's context."""

    code = "context_length_exceeded"


class UnsupportedContentError(InvalidRequestError):
    """A content part of a kind that the model cannot read."""

    code = "unsupported_content"


class BodyTooLargeError(InvalidRequestError):
    """A body of more bytes than the server reads."""

    status = 413
    code = "request_too_large"


class AuthenticationError(LanternError):
    """No key, or one that is not valid."""

    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"


class ForbiddenError(LanternError):
    """A request that this server refuses from every caller: a foreign Host, a cross-site call."""

    status = 403
    type = "invalid_request_error"
    code = "forbidden"


class ModelNotFoundError(LanternError):
    """No such model is installed here."""

    status = 404
    type = "invalid_request_error"
    code = "model_not_found"


class ConflictError(LanternError):
    """The request conflicts with the current state."""

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
    """A model that this device can never hold; the message has both numbers."""

    status = 503
    code = "insufficient_memory"


class StorageFullError(LanternError):
    """Too little free space; waiting does not help, so there is no Retry-After."""

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
    """A bundle whose signer is not trusted here."""

    code = "untrusted_signer"


class ConfigError(LanternError):
    """A setting that is not valid; the message names key, value and what is allowed."""

    code = "config_error"
    exit_code = 2


class UnknownNameError(ConfigError):
    """No alias, key or model has this name."""

    status = 404
    type = "invalid_request_error"
    code = "not_found"


class DiscoveryError(LanternError):
    """Nothing suitable was found on the local network."""

    code = "discovery_error"
    exit_code = 4


class DeviceError(LanternError):
    """Another device refused a request, or was lost during it; `reason` is the code of its error."""

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
    """A device that cannot prove its identity; nothing secret was sent to it."""

    code = "trust_error"
    exit_code = 6


class QuantizeError(LanternError):
    """A checkpoint that cannot become a bundle; the message names what was not recognized."""

    code = "quantize_error"
    exit_code = 5

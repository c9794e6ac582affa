"""OpenAI's error object, the only form in which an error leaves this server."""

from __future__ import annotations

from typing import Any

from appliance.errors import InvalidRequestError, LanternError


class InternalError(LanternError):
    """Our fault; the log has the reason under the request's id."""

    code = "internal_error"

    @classmethod
    def of(cls, request_id: str) -> InternalError:
        """What a client is told, which is where to look and nothing else."""
        return cls(f"The server failed; its log has the reason under {request_id}.")


def error_body(err: LanternError) -> dict[str, Any]:
    """`code` and `param` are strings or null, never anything else."""
    code = err.error_code if isinstance(err, InvalidRequestError) else err.code
    return {"error": {"message": err.message, "type": err.type, "param": err.param, "code": code}}


def error_headers(err: LanternError) -> dict[str, str]:
    """What tells an SDK whether and when to try again."""
    retry_after_s = getattr(err, "retry_after_s", None)
    if retry_after_s is not None:
        return {"Retry-After": str(retry_after_s), "x-should-retry": "true"}
    return {"x-should-retry": "false"} if err.status >= 500 else {}

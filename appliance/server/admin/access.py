"""The administration behind the routes below /admin, and its refusals as errors of a request."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from http import HTTPStatus

from aiohttp import web

from appliance.errors import (
    BundleError,
    ConfigError,
    InsufficientMemoryError,
    InvalidRequestError,
    UnavailableError,
    UntrustedSignerError,
)
from appliance.install.administration import Administration
from appliance.server.context import CONTEXT


class NotTrustedError(InvalidRequestError):
    """A bundle whose signer is not trusted here."""

    status = 403


class NotInstalledError(InvalidRequestError):
    """A bundle that was checked and refused; nothing has changed."""

    status = 422


def administration_of(request: web.Request) -> Administration:
    """Return the administration of this server.

    Raises:
        UnavailableError: this server was composed without one.
    """
    administration = request.app[CONTEXT].administration
    if administration is None:
        raise UnavailableError("This server cannot be administered.")
    return administration


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """Translate errors of bundles and settings into errors of the request that brought them."""
    try:
        yield
    except UntrustedSignerError as err:
        raise NotTrustedError(err.message, code=err.code) from err
    except (BundleError, InsufficientMemoryError) as err:
        raise NotInstalledError(err.message, code=err.code) from err
    except ConfigError as err:
        if err.status < HTTPStatus.INTERNAL_SERVER_ERROR:
            raise
        raise InvalidRequestError(err.message, code="invalid_value") from err

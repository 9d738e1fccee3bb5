"""Bearer tokens of callers and operators (RFC 6750)."""

from __future__ import annotations

import hmac
from hashlib import sha256

from pydantic import SecretStr
from starlette.requests import Request

from sark.http.problems import HttpError, Problem

__all__ = [
    "Credential",
    "bearer_in",
    "bearer_of",
    "forbidden_without_admin_token",
    "forbidden_without_tokens",
    "looks_like_access_token",
    "unauthenticated",
]

_BEARER = "bearer "


class Credential:
    """A token that is compared in constant time, whatever its length.

    Args:
        token: The token; None is matched by nothing.
    """

    __slots__ = ("_digest",)

    def __init__(self, token: SecretStr | None) -> None:
        self._digest = _digest(token.get_secret_value()) if token is not None else None

    @property
    def is_set(self) -> bool:
        """Whether there is a token that could match."""
        return self._digest is not None

    def matches(self, given: str | None) -> bool:
        """Whether ``given`` is the token."""
        if self._digest is None or given is None:
            return False
        return hmac.compare_digest(self._digest, _digest(given))


def bearer_of(authorization: str | None) -> str | None:
    """Take the token from an ``Authorization`` header; None when it holds no bearer token."""
    if authorization is None or authorization[: len(_BEARER)].lower() != _BEARER:
        return None
    return authorization[len(_BEARER) :].strip() or None


def bearer_in(request: Request) -> str | None:
    """Take the token from a request; None when it shows no bearer token.

    Raises:
        HttpError: 400: there are several ``Authorization`` header fields. Only one is allowed (RFC
            9110, section 5.3), and a proxy may have looked at another one than we would.
    """
    given = request.headers.getlist("authorization")
    if len(given) > 1:
        detail = f"got {len(given)} Authorization header fields, expected at most one"
        raise HttpError(Problem("urn:sark:problem:malformed", "Malformed request", 400, detail))
    return bearer_of(given[0] if given else None)


def looks_like_access_token(token: str) -> bool:
    """Whether a token has the form of an access token: three parts (RFC 7515 section 3.1)."""
    return token.count(".") == 2  # noqa: PLR2004 - between three parts


def unauthenticated(detail: str, *, token_given: bool, decision_id: str = "") -> HttpError:
    """Build the 401 answer; RFC 6750 section 3 names an error only when a token was given."""
    challenge = 'Bearer realm="sark"'
    if token_given:
        challenge += ', error="invalid_token"'
    problem = Problem(
        "urn:sark:problem:unauthenticated", "Unauthenticated", 401, detail, decision_id=decision_id
    )
    return HttpError(problem, {"WWW-Authenticate": challenge})


def forbidden_without_admin_token() -> HttpError:
    """Build the answer of an admin route on a service that has no admin token."""
    return _forbidden("admin routes are closed: SARK_ADMIN_TOKEN is not set")


def forbidden_without_tokens() -> HttpError:
    """Build the answer of a service that nobody may begin sessions on."""
    return _forbidden(
        "nobody may begin sessions: neither SARK_SERVICE_TOKEN nor SARK_ADMIN_TOKEN is set"
    )


def _forbidden(detail: str) -> HttpError:
    return HttpError(Problem("urn:sark:problem:forbidden", "Forbidden", 403, detail))


def _digest(token: str) -> bytes:
    return sha256(token.encode("utf-8", "surrogatepass")).digest()

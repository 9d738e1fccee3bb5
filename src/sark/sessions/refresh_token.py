"""Refresh tokens: user, session and counter, with a MAC by a key of the server (DESIGN 4.4).

A token can be made again from what it names, so nothing but its hash needs to be stored, and a
client that lost an answer is given the same successor once more. A token with a valid MAC and an
old counter can only be a copy of one that was already traded (RFC 9700, section 4.14).

Form: ``r1.<user>.<session>.<counter>.<MAC>``, the user's id in base64url, the MAC HMAC-SHA-256 over
the rest in base64url. Clients treat it as opaque.
"""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from hashlib import sha256

import msgspec

from sark.errors import TokenError

__all__ = ["MAX_TOKEN_BYTES", "RefreshClaims", "RefreshTokens", "token_hash"]

MAX_TOKEN_BYTES = 1024
_VERSION = "r1"
_PARTS = 5
_MAX_COUNTER_DIGITS = 12
_JTI_BYTES = 16


class RefreshClaims(msgspec.Struct, frozen=True):
    """What a refresh token names.

    Attributes:
        user_id: The user.
        session_id: The session.
        counter: How many tokens of this session were issued before it.
    """

    user_id: str
    session_id: str
    counter: int

    def successor(self) -> RefreshClaims:
        """Name the next token."""
        return RefreshClaims(self.user_id, self.session_id, self.counter + 1)


class RefreshTokens:
    """Makes and reads refresh tokens; no I/O.

    Args:
        key: Shared by all processes of a deployment.
    """

    def __init__(self, key: bytes) -> None:
        self._key = hmac.new(key, b"sark refresh token v1", sha256).digest()
        self._jti_key = hmac.new(key, b"sark access token id v1", sha256).digest()

    def issue(self, claims: RefreshClaims) -> str:
        """Spell the token; equal claims give equal tokens."""
        text = _spell(claims)
        return f"{text}.{_encode(self._mac(text))}"

    def read(self, token: str) -> RefreshClaims:
        """Read a token.

        Raises:
            TokenError: It wasn't made with our key. No part of it is repeated.
        """
        if len(token) > MAX_TOKEN_BYTES or not token.isascii():
            raise _refused()
        text, _, mac = token.rpartition(".")
        # The MAC is compared before anything is parsed, and in constant time.
        if not hmac.compare_digest(mac, _encode(self._mac(text))):
            raise _refused()
        parts = text.split(".")
        if len(parts) != _PARTS - 1 or parts[0] != _VERSION:
            raise _refused()
        _, user, session_id, counter = parts
        if not counter.isdigit() or len(counter) > _MAX_COUNTER_DIGITS:
            raise _refused()
        try:
            user_id = urlsafe_b64decode(user + "=" * (-len(user) % 4)).decode()
        except (Base64Error, UnicodeDecodeError):
            raise _refused() from None
        return RefreshClaims(user_id, session_id, int(counter))

    def access_token_id(self, claims: RefreshClaims) -> str:
        """Derive the ``jti`` of the access token that is issued together with a refresh token.

        Unpredictable without the key, and the same again for a client that lost the answer.
        """
        digest = hmac.new(self._jti_key, _spell(claims).encode(), sha256).digest()
        return _encode(digest[:_JTI_BYTES])

    def _mac(self, text: str) -> bytes:
        return hmac.new(self._key, text.encode(), sha256).digest()


def token_hash(token: str) -> str:
    """Hash a token as it is stored: SHA-256 in base64url, 43 characters."""
    return _encode(sha256(token.encode()).digest())


def _spell(claims: RefreshClaims) -> str:
    user = _encode(claims.user_id.encode())
    return f"{_VERSION}.{user}.{claims.session_id}.{claims.counter}"


def _encode(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")


def _refused() -> TokenError:
    return TokenError("invalid", "the refresh token is not one of this service")

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
from collections.abc import Sequence
from hashlib import sha256

import msgspec

from sark.errors import TokenError

__all__ = ["MAX_TOKEN_BYTES", "RefreshClaims", "RefreshKey", "RefreshTokens", "token_hash"]

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


class RefreshKey:
    """Makes tokens with one key; no I/O.

    Args:
        secret: Shared by all processes of a deployment.
    """

    def __init__(self, secret: bytes) -> None:
        self._key = hmac.new(secret, b"sark refresh token v1", sha256).digest()
        self._jti_key = hmac.new(secret, b"sark access token id v1", sha256).digest()

    def issue(self, claims: RefreshClaims) -> str:
        """Spell the token; equal claims give equal tokens."""
        text = _spell(claims)
        return f"{text}.{self._mac(text)}"

    def access_token_id(self, claims: RefreshClaims) -> str:
        """Derive the ``jti`` of the access token that is issued together with a refresh token.

        Unpredictable without the key, and the same again for a client that lost the answer.
        """
        digest = hmac.new(self._jti_key, _spell(claims).encode(), sha256).digest()
        return _encode(digest[:_JTI_BYTES])

    def made(self, token: str) -> bool:
        """Whether the token was made with this key; it must be ASCII. In constant time."""
        text, _, mac = token.rpartition(".")
        return hmac.compare_digest(mac, self._mac(text))

    def _mac(self, text: str) -> str:
        return _encode(hmac.new(self._key, text.encode(), sha256).digest())


class RefreshTokens:
    """Makes refresh tokens with the active key, and reads those of all keys that count; no I/O.

    Args:
        active: The secret that new tokens are made with.
        following: The secret that will be active next, if it is known.
        retired: Those that were before.

    Attributes:
        active: The key of new tokens.
    """

    def __init__(
        self, active: bytes, following: bytes | None = None, retired: Sequence[bytes] = ()
    ) -> None:
        self._secrets: tuple[bytes, bytes | None, tuple[bytes, ...]] | None = None
        self.use(active, following, retired)

    def use(self, active: bytes, following: bytes | None, retired: Sequence[bytes]) -> None:
        """Change the keys."""
        secrets = (active, following, tuple(retired))
        if secrets == self._secrets:
            return
        self._secrets = secrets
        self.active = RefreshKey(active)
        self._unretired = [self.active, *([RefreshKey(following)] if following else [])]
        self._keys = [*self._unretired, *map(RefreshKey, retired)]

    def issue(self, claims: RefreshClaims) -> str:
        """Spell a token with the active key."""
        return self.active.issue(claims)

    def access_token_id(self, claims: RefreshClaims) -> str:
        """Derive the ``jti`` of its access token with the active key."""
        return self.active.access_token_id(claims)

    def key_of(self, claims: RefreshClaims, stored_hash: str) -> RefreshKey | None:
        """Find the key of a token that was issued already; None when it doesn't count any more.

        Args:
            claims: What the token names.
            stored_hash: Its ``token_hash``, from the server.
        """
        return next((k for k in self._keys if token_hash(k.issue(claims)) == stored_hash), None)

    def is_of_retired_key(self, token: str) -> bool:
        """Whether a token that was read was made with a key that makes none any more."""
        return not any(key.made(token) for key in self._unretired)

    def read(self, token: str) -> RefreshClaims:
        """Read a token.

        Raises:
            TokenError: It wasn't made with a key of ours. No part of it is repeated.
        """
        if len(token) > MAX_TOKEN_BYTES or not token.isascii():
            raise _refused()
        # The MAC is compared before anything is parsed.
        if not any(key.made(token) for key in self._keys):
            raise _refused()
        parts = token.split(".")[:-1]
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

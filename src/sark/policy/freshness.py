"""Freshness tokens: "answer at least as fresh as this change".

An invalidation returns one. It names the generation that was written and its new value, and is
signed, so that a client can carry it from the service that revoked to any other one and nobody can
make one up. A request with a token is answered by decisions from after that change only.

Form: ``<scope>.<name>.<generation token>.<MAC>``, the name in base64url, the MAC the first 16 bytes
of HMAC-SHA-256 over the rest in base64url. Clients treat it as opaque.
"""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from hashlib import sha256
from typing import Literal, get_args

import msgspec

__all__ = ["MAX_TOKEN_BYTES", "Freshness", "FreshnessSigner", "Scope", "generation_time"]

Scope = Literal["all", "policy", "user"]
MAX_TOKEN_BYTES = 1024
MAC_BYTES = 16
# Microseconds fill 16 digits until the year 2286; anybody may publish longer ones.
MAX_TIME_DIGITS = 20


class Freshness(msgspec.Struct, frozen=True):
    """A change that an answer must be no older than.

    Attributes:
        scope: Which kind of generation was written.
        name: Of the policy or the user; empty for everything.
        generation: The generation token that was written.
    """

    scope: Scope
    name: str
    generation: str

    def concerns(self, policy: str, user_id: str) -> bool:
        """Whether decisions of this policy about this user depend on the change."""
        match self.scope:
            case "all":
                return True
            case "policy":
                return self.name == policy
            case "user":
                return self.name == user_id

    def is_covered_by(self, generation: bytes) -> bool:
        """Whether the server's current token is this one or a later one."""
        return generation_time(generation) >= generation_time(self.generation.encode())


class FreshnessSigner:
    """Signs and verifies freshness tokens.

    Args:
        key: Shared by all processes of a deployment.
    """

    def __init__(self, key: bytes) -> None:
        self._key = hmac.new(key, b"sark freshness v1", sha256).digest()

    def sign(self, freshness: Freshness) -> str:
        """Spell a token for clients."""
        name = _encode(freshness.name.encode())
        text = f"{freshness.scope}.{name}.{freshness.generation}"
        return f"{text}.{self._mac(text)}"

    def verify(self, token: str) -> Freshness | None:
        """Read a token; None when it was not signed with our key."""
        if not token.isascii():
            return None
        text, _, mac = token.rpartition(".")
        if not hmac.compare_digest(mac, self._mac(text)):
            return None
        parts = text.split(".")
        if len(parts) != 3 or parts[0] not in get_args(Scope):  # noqa: PLR2004 - the form above
            return None
        scope, name, generation = parts
        try:
            return msgspec.convert(
                {"scope": scope, "name": _decode(name).decode(), "generation": generation},
                Freshness,
            )
        except (Base64Error, UnicodeDecodeError):
            return None

    def _mac(self, text: str) -> str:
        digest = hmac.new(self._key, text.encode(), sha256).digest()
        return _encode(digest[:MAC_BYTES])


def generation_time(token: bytes) -> int:
    """Read when a generation token was written, in microseconds of the server's clock.

    Tokens are ordered by it; 0 for what is no token, which is older than every token.
    """
    digits = token.partition(b"-")[0]
    return int(digits) if digits.isdigit() and len(digits) <= MAX_TIME_DIGITS else 0


def _encode(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")


def _decode(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))

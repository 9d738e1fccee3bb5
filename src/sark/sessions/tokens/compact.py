"""The compact form of signed tokens (RFC 7515 section 7.1), read so that each has one spelling.

Lenient readers drop characters, padding and spare bits, so that many texts are "the same" token;
whoever blocks or caches by text is then fooled. Here a part that isn't exactly what encoding its
bytes again gives is refused.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from typing import Any, NamedTuple

from sark.errors import TokenError
from sark.sessions.tokens.strict_json import strict_object

__all__ = ["CompactToken", "encode_base64url", "read_compact"]

PARTS = 3


class CompactToken(NamedTuple):
    """A token taken apart. Nothing in it is verified.

    Attributes:
        header: What it says about its signature.
        payload: What it claims.
        signed: The bytes that were signed.
        signature: The signature.
    """

    header: dict[str, Any]
    payload: dict[str, Any]
    signed: bytes
    signature: bytes


def read_compact(token: str) -> CompactToken:
    """Take a token apart.

    Args:
        token: ASCII of a bounded length.

    Raises:
        TokenError: ``malformed``.
    """
    parts = token.split(".")
    if len(parts) != PARTS:
        raise TokenError("malformed", f"expected {PARTS} parts with a dot between them")
    header, payload, signature = parts
    return CompactToken(
        _object("header", header),
        _object("payload", payload),
        f"{header}.{payload}".encode(),
        _decode("signature", signature),
    )


def encode_base64url(data: bytes) -> str:
    """Encode without padding."""
    return urlsafe_b64encode(data).decode().rstrip("=")


def _object(part: str, text: str) -> dict[str, Any]:
    data = _decode(part, text)
    try:
        return strict_object(data)
    except ValueError:
        raise TokenError(
            "malformed", f"the {part} is not one JSON object with each member once"
        ) from None


def _decode(part: str, text: str) -> bytes:
    try:
        data = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (Base64Error, ValueError):
        data = None
    if data is None or encode_base64url(data) != text:
        raise TokenError("malformed", f"the {part} is not in base64url")
    return data

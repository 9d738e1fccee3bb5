"""Ids from outside as parts of keys; see the package for the encoding."""

from __future__ import annotations

import re
from base64 import urlsafe_b64encode
from hashlib import sha256
from urllib.parse import quote

from sark.errors import InvalidRequestError

__all__ = ["MAX_ENCODED_BYTES", "encode_id", "encode_rule"]

MAX_ENCODED_BYTES = 200


MAX_RULE_CHARACTERS = 12


_SAFE = "-_.~@+=,/"


_PLAIN = re.compile(rf"[A-Za-z0-9\-_.~@+=,/]{{1,{MAX_ENCODED_BYTES}}}").fullmatch


def encode_id(value: str, *, field: str = "id") -> str:
    """Encode an id from outside as one part of a key.

    Args:
        value: The id. Unicode forms are kept apart: nothing is normalised.
        field: The name to report when the id is refused.

    Returns:
        A string of safe characters without ``:``, braces or ``#`` (but for the marker of a hash).

    Raises:
        InvalidRequestError: The id is empty or not encodable as UTF-8 (lone surrogates).
    """
    if _PLAIN(value):
        return value
    if not value:
        raise InvalidRequestError(field, "got an empty string, expected an id")
    try:
        encoded = quote(value, safe=_SAFE)
    except UnicodeEncodeError:
        raise InvalidRequestError(field, "is not valid Unicode (a lone surrogate)") from None
    if len(encoded) <= MAX_ENCODED_BYTES:
        return encoded
    return "#" + sha256(value.encode()).hexdigest()


def encode_rule(name: str) -> str:
    """Spell the name of a rule as one part of a key: a long one as ``~`` and part of its SHA-256.

    Every counter of the rule has it in its key, so it must not be long. Names have no ``~``.
    """
    if len(name) <= MAX_RULE_CHARACTERS:
        return name
    digest = urlsafe_b64encode(sha256(name.encode()).digest()).decode()
    return "~" + digest[: MAX_RULE_CHARACTERS - 1]

"""A decision, as an evaluator gives it and as it is cached.

The cached form is JSON with the guide's ``allow`` and ``reason``, a format version, and the stamp
under which the decision is valid. Anything that does not decode to the current version (corrupt,
foreign, written by another release) is a miss.
"""

from __future__ import annotations

import msgspec

__all__ = ["Decision", "decode_entry", "encode_entry"]

FORMAT_VERSION = 1


class Decision(msgspec.Struct, frozen=True):
    """What a policy decided.

    Attributes:
        allow: Whether the action is allowed.
        reason: Why, for people and audit; empty when the policy gives none.
        ttl: Longest time to keep the decision, in seconds; None leaves it to the tier.
        cacheable: Whether the decision may be kept at all.
    """

    allow: bool
    reason: str = ""
    ttl: int | None = None
    cacheable: bool = True


class Entry(msgspec.Struct, frozen=True, array_like=False):
    """A cached decision."""

    v: int
    allow: bool
    reason: str
    stamp: str


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Entry).decode


def encode_entry(decision: Decision, stamp: str) -> bytes:
    """Encode a decision for the cache, valid under ``stamp``."""
    return _encode(Entry(FORMAT_VERSION, decision.allow, decision.reason, stamp))


def decode_entry(value: bytes) -> Entry | None:
    """Decode a cached decision; None when it is corrupt or of another version."""
    try:
        entry = _decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return entry if entry.v == FORMAT_VERSION else None

"""A decision, as an evaluator gives it and as it is cached.

The cached form is JSON with the allow and reason of the guide, and ``v``: the format version (one
character) followed by the stamp under which the decision is valid. Two members for them take ten
bytes more, an allocation class of the server. Above a threshold it is compressed with zstd.
Anything that does not decode to the current version (corrupt, foreign, of another release) is a
miss.
"""

from __future__ import annotations

import msgspec
from zstandard import ZstdCompressor, ZstdDecompressor, ZstdError, frame_content_size

__all__ = [
    "FORMAT_VERSION",
    "Decision",
    "decode_entry",
    "encode_entry",
    "is_compressed",
    "version_of",
]

FORMAT_VERSION = "1"
# From here zstd saves a quarter and more; it costs about 5 microseconds to write and 2 to read. See
# docs/benchmarks.md for the measurement.
COMPRESS_ABOVE_BYTES = 384
MAX_ENTRY_BYTES = 1_048_576
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


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


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A cached decision."""

    v: str
    allow: bool
    reason: str

    @property
    def stamp(self) -> str:
        """What the decision is valid under."""
        return self.v[1:]


class Versioned(msgspec.Struct):
    """What every version of a cached decision has."""

    v: str | int


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Entry).decode
_decode_version = msgspec.json.Decoder(Versioned).decode
_compress = ZstdCompressor(level=3).compress
_decompress = ZstdDecompressor().decompress


def encode_entry(decision: Decision, stamp: str) -> bytes:
    """Encode a decision for the cache, valid under ``stamp``."""
    encoded = _encode(Entry(FORMAT_VERSION + stamp, decision.allow, decision.reason))
    if len(encoded) <= COMPRESS_ABOVE_BYTES:
        return encoded
    return min(encoded, _compress(encoded), key=len)


def decode_entry(value: bytes) -> Entry | None:
    """Decode a cached decision; None when it is corrupt or of another version."""
    try:
        if value.startswith(ZSTD_MAGIC):
            # The frame says how much memory to reserve; a corrupt one may say anything.
            if not 0 < frame_content_size(value) <= MAX_ENTRY_BYTES:
                return None
            value = _decompress(value)
        entry = _decode(value)
    except (msgspec.MsgspecError, ZstdError, UnicodeDecodeError, RecursionError):
        return None
    return entry if entry.v[:1] == FORMAT_VERSION else None


def is_compressed(value: bytes) -> bool:
    """Whether a cached value is compressed."""
    return value.startswith(ZSTD_MAGIC)


def version_of(value: bytes) -> str | None:
    """Read a cached value's format version, whichever it is; None when it has none."""
    try:
        if is_compressed(value):
            if not 0 < frame_content_size(value) <= MAX_ENTRY_BYTES:
                return None
            value = _decompress(value)
        return str(_decode_version(value).v)[:1]
    except (msgspec.MsgspecError, ZstdError, UnicodeDecodeError, RecursionError):
        return None

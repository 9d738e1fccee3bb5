"""A decision, as an evaluator gives it and as it is cached.

The cached form is JSON with the allow and reason of the guide, and ``v``, one text for everything
else (two members for it would take ten bytes more, an allocation class of the server)::

    2 hnkctu40zk Vt9gZkq0p3 :300
    | |          |          |
    | |          |          life in seconds, when the policy chose one
    | |          stamp: what it is valid under
    | when its evaluation began: microseconds of the state server's clock, in base 36
    format version

When its evaluation began puts decisions in order: ``store_decision.lua`` lets none replace one that
began later. Above a threshold the JSON is compressed with zstd, and that moment stands once more in
a skippable frame before it (RFC 8878, 3.1.2), where the script can read it.

Where a later evaluation may not be kept, a *withdrawal* takes the decision's place for a short
time: the moment alone. It keeps evaluations that began earlier from being stored.

Anything that does not decode to the current version (corrupt, foreign, of another release) is a
miss.
"""

from __future__ import annotations

import re

import msgspec
from zstandard import ZstdCompressor, ZstdDecompressor, ZstdError, frame_content_size

__all__ = [
    "FORMAT_VERSION",
    "Decision",
    "Entry",
    "began_at",
    "decode_entry",
    "encode_entry",
    "encode_withdrawal",
    "is_compressed",
    "is_withdrawal",
    "spell_moment",
    "version_of",
]

FORMAT_VERSION = "2"
# In base 36, which Python and Lua both read; enough until the year 2085. Six digits fewer than in
# base 10 leave room for the life within the same allocation class.
BEGAN_DIGITS = 10
LAST_MOMENT = 36**BEGAN_DIGITS - 1
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
# From here zstd saves a quarter and more; it costs about 5 microseconds to write and 2 to read. See
# docs/benchmarks.md for the measurement.
COMPRESS_ABOVE_BYTES = 384
MAX_ENTRY_BYTES = 1_048_576
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
# A skippable frame's magic number, and its length, which is that of the moment.
BEGAN_FRAME = b"\x50\x2a\x4d\x18\x0a\x00\x00\x00"
BEGAN_FRAME_BYTES = len(BEGAN_FRAME) + BEGAN_DIGITS


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
    def parts(self) -> tuple[str, int, int | None]:
        """Stamp, ``began`` and ``life`` in one go, for the path of a hit."""
        stamp, _, life = self.v[1 + BEGAN_DIGITS :].partition(":")
        return stamp, int(self.v[1 : 1 + BEGAN_DIGITS], 36), int(life) if life else None

    @property
    def began(self) -> int:
        """When its evaluation began, in microseconds of the state server's clock."""
        return self.parts[1]

    @property
    def stamp(self) -> str:
        """What the decision is valid under."""
        return self.parts[0]

    @property
    def life(self) -> int | None:
        """Seconds that the policy lets it live; None leaves it to the tier."""
        return self.parts[2]


class Versioned(msgspec.Struct):
    """What every version of a cached decision has."""

    v: str | int


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Entry).decode
_decode_version = msgspec.json.Decoder(Versioned).decode
_compress = ZstdCompressor(level=3).compress
_decompress = ZstdDecompressor().decompress


_is_v = re.compile(rf"{FORMAT_VERSION}[0-9a-z]{{{BEGAN_DIGITS}}}[^:]*(:\d{{1,9}})?").fullmatch
_in_json = re.compile(rb'\{"v":"%b([0-9a-z]{%d})' % (FORMAT_VERSION.encode(), BEGAN_DIGITS)).match
_in_frame = re.compile(rb"%b([0-9a-z]{%d})" % (re.escape(BEGAN_FRAME), BEGAN_DIGITS)).match


def encode_entry(
    decision: Decision, stamp: str, *, began: int = 0, life: int | None = None
) -> bytes:
    """Encode a decision for the cache.

    Args:
        decision: What was decided.
        stamp: What it is valid under; without ``:``.
        began: When its evaluation began, in microseconds of the state server's clock.
        life: Seconds that the policy lets it live; None leaves it to the tier.

    Raises:
        ValueError: It is too large to be read back.
    """
    moment = spell_moment(began)
    rest = stamp if life is None else f"{stamp}:{life}"
    encoded = _encode(Entry(f"{FORMAT_VERSION}{moment}{rest}", decision.allow, decision.reason))
    if len(encoded) <= COMPRESS_ABOVE_BYTES:
        return encoded
    if len(encoded) > MAX_ENTRY_BYTES:
        raise ValueError(f"got {len(encoded)} bytes, expected at most {MAX_ENTRY_BYTES}")
    return min(encoded, BEGAN_FRAME + moment.encode() + _compress(encoded), key=len)


WITHDRAWAL_BYTES = len(b'{"v":"2"}') + BEGAN_DIGITS


def encode_withdrawal(began: int) -> bytes:
    """Encode that what was decided before ``began`` is to be evaluated again."""
    return b'{"v":"%b%b"}' % (FORMAT_VERSION.encode(), spell_moment(began).encode())


def spell_moment(began: int) -> str:
    """Write a moment in base 36, with leading zeros."""
    left, digits = min(began, LAST_MOMENT), ""
    for _ in range(BEGAN_DIGITS):
        left, digit = divmod(left, 36)
        digits = DIGITS[digit] + digits
    return digits


def is_withdrawal(value: bytes) -> bool:
    """Whether a cached value is a withdrawal."""
    return len(value) == WITHDRAWAL_BYTES and _in_json(value) is not None


def began_at(value: bytes) -> int:
    """Read when the evaluation of a cached value began; 0 when it does not say."""
    found = _in_json(value) or _in_frame(value)
    return int(found[1], 36) if found else 0


def decode_entry(value: bytes) -> Entry | None:
    """Decode a cached decision; None when it is corrupt or of another version."""
    try:
        if is_compressed(value):
            value = value[BEGAN_FRAME_BYTES:]
            # The frame says how much memory to reserve; a corrupt one may say anything.
            if not 0 < frame_content_size(value) <= MAX_ENTRY_BYTES:
                return None
            value = _decompress(value)
        entry = _decode(value)
    except (msgspec.MsgspecError, ZstdError, UnicodeDecodeError, RecursionError):
        return None
    return entry if _is_v(entry.v) else None


def is_compressed(value: bytes) -> bool:
    """Whether a cached value is compressed."""
    return value.startswith(BEGAN_FRAME) and value.startswith(ZSTD_MAGIC, BEGAN_FRAME_BYTES)


def version_of(value: bytes) -> str | None:
    """Read a cached value's format version, whichever it is; None when it has none."""
    try:
        if is_compressed(value):
            value = value[BEGAN_FRAME_BYTES:]
            if not 0 < frame_content_size(value) <= MAX_ENTRY_BYTES:
                return None
            value = _decompress(value)
        return str(_decode_version(value).v)[:1]
    except (msgspec.MsgspecError, ZstdError, UnicodeDecodeError, RecursionError):
        return None

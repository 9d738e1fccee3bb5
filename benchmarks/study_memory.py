"""Memory: what a cached decision takes on the server, and what compression saves."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from pathlib import Path
from time import perf_counter_ns
from typing import Literal

import msgspec
from valkey.asyncio import Valkey
from zstandard import ZstdCompressor, ZstdDecompressor

from benchmarks.driver import open_drivers
from benchmarks.measure import no_collection, percentile
from benchmarks.results import Result
from benchmarks.study import Advance, Study, row
from benchmarks.workload import POLICIES
from sark import Settings, open_runtime
from sark.policy import Decision, Question
from sark.policy.cache import PolicyCache
from sark.policy.decision import decode_entry, encode_entry

__all__ = ["compression_study", "memory_study", "reason_of", "used_memory"]

DECISION_BYTES = 200
REASON_SIZES = (256, 384, 512, 768, 1024, 2048, 4096)
BATCH = 1000
TTL_SECONDS = 3600
STAMP = "k3V0c2Fyay"
GUIDE = "200-byte decision, the guide's key and no stamp"

Entry = tuple[str, bytes]

_TEAMS = ("payments", "platform", "search", "identity", "data", "mobile", "billing", "edge")
_ROLES = ("developer", "operator", "auditor", "contractor", "administrator", "viewer")
_VERBS = ("read", "write", "invoke", "delete", "configure", "restart")
_THINGS = ("production databases", "tools of another team", "customer exports", "audit logs")
_LEVELS = ("high", "medium", "low")

_CLAUSES: tuple[Callable[[random.Random], str], ...] = (
    lambda d: f"user user-{d.randrange(5000):04} is not in team {d.choice(_TEAMS)}",
    lambda d: f"role {d.choice(_ROLES)} may not {d.choice(_VERBS)} {d.choice(_THINGS)}",
    lambda d: f"server/{d.choice(_TEAMS)}-{d.randrange(999):03} is {d.choice(_LEVELS)} sensitivity",
    lambda d: f"outside working hours ({d.randrange(24):02}:{d.randrange(60):02} Europe/Berlin)",
    lambda d: f"approval CHG-{d.randrange(99999):05} has expired",
    lambda d: f"network 10.{d.randrange(256)}.{d.randrange(256)}.0/24 is not trusted",
    lambda d: (
        f"rule {d.choice(_TEAMS)}_{d.choice(_VERBS)}_guard matched with priority {d.randrange(99)}"
    ),
)


def memory_study(entries: int) -> Study:
    """Bytes per cached decision of 200 bytes, by the form of the key."""

    async def measure(directory: Path, advance: Advance) -> list[Result]:
        reason = _fill(DECISION_BYTES - len(_plain("")))
        value = _plain(reason)
        stamped = encode_entry(Decision(allow=True, reason=reason), STAMP)
        guide = await _bytes_each(directory, "full", entries, lambda: value)
        advance()
        rows = [row(GUIDE, "bytes", guide, "bytes")]
        forms: tuple[Literal["full", "compact"], ...] = ("full", "compact")
        for form in forms:
            each = await _bytes_each(directory, form, entries, lambda: stamped)
            advance()
            case = f"200-byte decision, {form} key"
            rows.append(row(case, "bytes", each, "bytes", baseline=GUIDE, base=guide))
        return rows

    return Study("Memory of a cached decision", 3, measure)


def compression_study(entries: int) -> Study:
    """What zstd saves on long reasons, and what it costs."""

    async def measure(directory: Path, advance: Advance) -> list[Result]:
        rows: list[Result] = []
        dice = random.Random(7)
        compress, decompress = ZstdCompressor(level=3).compress, ZstdDecompressor().decompress
        for size in REASON_SIZES:
            reasons = [reason_of(size, dice) for _ in range(entries)]
            plain = [_entry(reason) for reason in reasons]
            small = [compress(value) for value in plain]
            name = f"reason of {size:,} bytes"
            first = await _bytes_each(directory, "compact", entries, iter(plain).__next__)
            second = await _bytes_each(directory, "compact", entries, iter(small).__next__)
            rows.append(row(name, "bytes", first, "bytes"))
            rows.append(row(f"{name}, zstd", "bytes", second, "bytes", baseline=name, base=first))
            packing = _time(compress, plain)
            unpacking = _time(decompress, small)
            reading = _time(decode_entry, plain)
            rows.append(row(f"{name}, zstd", "encode", packing, "us"))
            rows.append(
                row(
                    f"{name}, zstd",
                    "decode",
                    unpacking + reading,
                    "us",
                    baseline=name,
                    base=reading,
                )
            )
            rows.append(row(name, "decode", reading, "us"))
            advance()
        return rows

    return Study("Compression of long reasons", len(REASON_SIZES), measure)


def reason_of(size: int, dice: random.Random) -> str:
    """Write a reason as policies give them, of so many characters; each one differs."""
    parts = ["denied: "]
    length = len(parts[0])
    while length < size:
        part = dice.choice(_CLAUSES)(dice) + "; "
        parts.append(part)
        length += len(part)
    return "".join(parts)[:size]


def _fill(size: int) -> str:
    return reason_of(size, random.Random(1))


class _Plain(msgspec.Struct):
    allow: bool
    reason: str


class _Stamped(msgspec.Struct):
    v: int
    allow: bool
    reason: str
    stamp: str


def _plain(reason: str) -> bytes:
    """Encode a decision as the guide keeps it."""
    return msgspec.json.encode(_Plain(allow=True, reason=reason))


def _entry(reason: str) -> bytes:
    """Encode a decision as ``encode_entry`` does before it compresses."""
    return msgspec.json.encode(_Stamped(1, allow=False, reason=reason, stamp=STAMP))


async def _bytes_each(
    directory: Path, form: Literal["full", "compact"], entries: int, value: Callable[[], bytes]
) -> float:
    """Fill a fresh server; bytes of its ``used_memory`` that each entry takes."""
    settings = Settings(
        data_dir=directory, policy_dir=POLICIES, cache_key=form, near_cache_entries=0
    )
    async with open_runtime(settings, ephemeral=True) as runtime:
        assert runtime.embedded is not None  # noqa: S101 - no server was named
        async with open_drivers(runtime.embedded.url) as drivers:
            pairs = _pairs(runtime.gateway.decisions.cache, entries, value)
            await _write(drivers.lean, pairs[:1])
            # At once, not in the background while the next is measured.
            await drivers.lean.execute_command("FLUSHALL", "SYNC")  # type: ignore[no-untyped-call]
            before = await used_memory(drivers.lean)
            await _write(drivers.lean, pairs)
            return (await used_memory(drivers.lean) - before) / entries


def _pairs(cache: PolicyCache, entries: int, value: Callable[[], bytes]) -> list[Entry]:
    questions = (
        Question.ask("sample", f"user-{n}", "server:read", "server/web-1") for n in range(entries)
    )
    return [(cache.decision_key(question), value()) for question in questions]


async def _write(client: Valkey, entries: Iterable[Entry]) -> None:
    pending = list(entries)
    for start in range(0, len(pending), BATCH):
        pipe = client.pipeline(transaction=False)
        for key, value in pending[start : start + BATCH]:
            pipe.set(key, value, ex=TTL_SECONDS)
        await pipe.execute()


async def used_memory(client: Valkey) -> int:
    """Read ``used_memory``, the least of a few times: buffers of clients come and go."""
    used: list[int] = [(await client.info("memory"))["used_memory"] for _ in range(5)]
    return min(used)


def _time(work: Callable[[bytes], object], values: list[bytes]) -> float:
    """Median time of one call, in microseconds."""
    times = []
    with no_collection():
        for value in values:
            began = perf_counter_ns()
            work(value)
            times.append(perf_counter_ns() - began)
    return percentile(times, 0.5) / 1000

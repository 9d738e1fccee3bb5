"""How the commands about the cache show what they found."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sark.ops.cache_stats import CacheReport, Latency, NearReport
from sark.ops.decision_keys import StoredDecisions
from sark.policy.explain import CachedValue, Explanation, GenerationSeen

__all__ = ["print_explanation", "print_report"]

PIPED_WIDTH = 160
NONE = "-"


def print_explanation(found: Explanation) -> None:
    """Print why a question is answered the way it is."""
    rows = {
        "answered from": f"{found.answered_from}: {found.why}",
        "changed": ", ".join(found.changed),
        "may have changed": ", ".join(found.may_have_changed),
        "policy": found.policy + ("" if found.cacheable else " (its decisions are never kept)"),
        "input": found.input,
        "key": found.key,
        "sensitivity": f"{found.sensitivity}: kept for at most {found.tier_seconds} s",
        **{f"generation, {g.scope}": _generation(g) for g in found.generations},
        "server run": found.run_id,
        "revision": found.revision,
        "stamp, expected": found.expected or "none: a generation is missing",
        "stamp, cached": found.cached.stamp or NONE,
        "in Valkey": _cached(found.cached),
        "near cache": f"{found.near.state}, {'serving' if found.near.serving else 'not serving'}",
    }
    _print(rows)


def print_report(found: CacheReport) -> None:
    """Print the figures of a cache."""
    looked, evaluated = found.lookups, found.evaluations
    ratio = NONE if looked.hit_ratio is None else f"{looked.hit_ratio:.1%}"
    results = ", ".join(f"{name} {count:,}" for name, count in sorted(looked.results.items()))
    invalidations = ", ".join(f"{scope} {count:,}" for scope, count in found.invalidations.items())
    rows = {
        "revision": found.revision,
        "look-ups": f"{looked.total:,}" + (f" ({results})" if results else ""),
        "hit ratio": ratio,
        "evaluations": (
            f"{evaluated.count:,}, of which {evaluated.undefined:,} undefined and "
            f"{evaluated.failures:,} failed; {evaluated.under_way:,} under way"
        ),
        "near cache": "off" if found.near is None else _near(found.near),
        "invalidations": invalidations,
        "revoke to enforced": _latency(found.enforced),
        "in Valkey": _stored(found.stored),
    }
    _print(rows)


def _generation(seen: GenerationSeen) -> str:
    if seen.token is None:
        return f"{seen.key} is missing; the next request creates it"
    return f"{seen.key} = {seen.token}" + (f", written {seen.written}" if seen.written else "")


def _cached(cached: CachedValue) -> str:
    parts = [cached.state.replace("_", " ")]
    if cached.allow is not None:
        parts.append(f"{'allow' if cached.allow else 'deny'} ({cached.reason})")
    if cached.evaluated:
        parts.append(f"evaluated {cached.evaluated}")
    if cached.bytes:
        parts.append(f"{cached.bytes} bytes{', compressed' if cached.compressed else ''}")
        left = cached.ttl_ms
        parts.append("without end" if left is None else f"{left / 1000:.0f} s left")
    return ", ".join(parts)


def _near(near: NearReport) -> str:
    lag = NONE if near.lag_ms is None else f"{near.lag_ms:.0f} ms"
    state = "serving" if near.serving else f"not serving: {near.failure}"
    return (
        f"{state}, lag {lag}, {near.entries:,} entries, "
        f"{near.bytes:,} bytes; hits {near.hits:,}, misses {near.misses:,} "
        f"(stale {near.stale:,}), emptied {near.emptied:,}"
    )


def _latency(latency: Latency) -> str:
    if latency.p50_ms is None or latency.p99_ms is None or latency.max_ms is None:
        return "none measured"
    return (
        f"p50 {latency.p50_ms:.2f} ms, p99 {latency.p99_ms:.2f} ms, max {latency.max_ms:.2f} ms "
        f"(the last {latency.measured:,} of {latency.count:,})"
    )


def _stored(stored: StoredDecisions | None) -> str:
    if stored is None:
        return "does not answer"
    size = "" if stored.average_bytes is None else f", {stored.average_bytes:.0f} bytes each"
    if not stored.estimated:
        return f"{stored.decisions:,} decisions{size}"
    return f"about {stored.decisions:,} decisions{size} (from {stored.sampled_keys:,} keys)"


def _print(rows: dict[str, str]) -> None:
    table = Table(show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in rows.items():
        if text:
            # ``Text``: in a plain string, rich would read brackets as markup.
            table.add_row(name, Text(text))
    console = Console()
    if not console.is_terminal:
        console = Console(width=PIPED_WIDTH)
    console.print(table)

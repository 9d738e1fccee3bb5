"""How long decisions are kept, and where."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from sark.settings import _kinds as kinds
from sark.settings._choices import CacheKey

__all__ = ["CacheSettings"]


class CacheSettings(BaseModel):
    """How long decisions are kept, and where."""

    ttl_high: Annotated[int, kinds.whole(1, 86_400, "seconds")] = Field(
        default=300,
        validation_alias="SARK_TTL_HIGH",
        description="How long decisions of high sensitivity are cached; the shortest.",
    )
    ttl_medium: Annotated[int, kinds.whole(1, 86_400, "seconds")] = Field(
        default=900,
        validation_alias="SARK_TTL_MEDIUM",
        description="How long decisions of medium sensitivity are cached.",
    )
    ttl_low: Annotated[int, kinds.whole(1, 86_400, "seconds")] = Field(
        default=3600,
        validation_alias="SARK_TTL_LOW",
        description="How long decisions of low sensitivity are cached; the longest.",
    )
    ttl_jitter: Annotated[float, kinds.number(0, 0.5, "share of the TTL")] = Field(
        default=0.1,
        validation_alias="SARK_TTL_JITTER",
        description=(
            "Most that is taken off a decision's TTL at random, so that decisions stored together "
            "do not expire together; 0 switches it off."
        ),
    )
    cache_key: Annotated[CacheKey, kinds.choice("full", "compact")] = Field(
        default="full",
        validation_alias="SARK_CACHE_KEY",
        description=(
            "Form of the keys of cached decisions: `full` is the SHA-256 in hex, `compact` is "
            "shorter and takes less memory. Processes that share a cache must agree."
        ),
    )
    near_cache_entries: Annotated[int, kinds.whole(0, 10_000_000, "entries")] = Field(
        default=10_000,
        validation_alias="SARK_NEAR_CACHE_ENTRIES",
        description=(
            "Most decisions kept in each process, next to those in Valkey; 0 switches the near "
            "cache off."
        ),
    )
    near_cache_bytes: Annotated[int, kinds.whole(1024, 2**36, "bytes")] = Field(
        default=16 * 2**20,
        validation_alias="SARK_NEAR_CACHE_BYTES",
        description="Most bytes of the near cache, estimated.",
    )
    near_cache_bound_ms: Annotated[int, kinds.whole(10, 60_000, "milliseconds")] = Field(
        default=250,
        validation_alias="SARK_NEAR_CACHE_BOUND_MS",
        description=(
            "Longest time that the near cache, used without a round trip, may lag behind an "
            "invalidation. Requests through `authorize` never do."
        ),
    )
    hot_sample: Annotated[int, kinds.whole(0, 1_000_000)] = Field(
        default=16,
        validation_alias="SARK_HOT_SAMPLE",
        description=(
            "One in so many answered questions is counted in the log of the most asked, from "
            "which caches are warmed; 0 counts none."
        ),
    )
    hot_requests: Annotated[int, kinds.whole(1, 10_000, "questions")] = Field(
        default=1000,
        validation_alias="SARK_HOT_REQUESTS",
        description="Most questions in the log of the most asked.",
    )
    warm_on_start: Annotated[bool, kinds.flag()] = Field(
        default=True,
        validation_alias="SARK_WARM_ON_START",
        description="Whether the service decides the most asked questions when it starts.",
    )
    warm_rate: Annotated[int, kinds.whole(1, 100_000, "evaluations per second")] = Field(
        default=200,
        validation_alias="SARK_WARM_RATE",
        description="Most evaluations for warming the cache.",
    )
    warm_ready_ms: Annotated[int, kinds.whole(0, 600_000, "milliseconds")] = Field(
        default=0,
        validation_alias="SARK_WARM_READY_MS",
        description=(
            "Longest time that `/health/ready` says no because the cache is still being warmed; 0: "
            "it doesn't wait for that."
        ),
    )

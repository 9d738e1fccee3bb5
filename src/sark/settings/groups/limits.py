"""How often anybody may ask."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field

from sark.settings import _kinds as kinds
from sark.settings._choices import LegacyHeaders, LimitsWithoutValkey, SentHeaders

__all__ = ["LimitSettings"]


class LimitSettings(BaseModel):
    """How often anybody may ask."""

    limit_per_minute: Annotated[int, kinds.whole(0, 10**9, "requests per minute")] = Field(
        default=1000,
        validation_alias="SARK_LIMIT_PER_MINUTE",
        description=(
            "Limit for each user, IP address and API key that a request names, unless a rule of "
            "`SARK_LIMITS_FILE` says otherwise; 0: no limit but those."
        ),
    )
    limits_file: Annotated[Path | None, kinds.path()] = Field(
        default=None,
        validation_alias="SARK_LIMITS_FILE",
        description=(
            "TOML file of the rules of rate limits. Unset: `SARK_LIMIT_PER_MINUTE` for everybody."
        ),
    )
    limits_without_valkey: Annotated[
        LimitsWithoutValkey, kinds.choice("local", "open", "closed")
    ] = Field(
        default="local",
        validation_alias="SARK_LIMITS_WITHOUT_VALKEY",
        description=(
            "What limits do while Valkey does not answer: `local` counts in each process, "
            "`open` admits, `closed` fails."
        ),
    )
    expected_processes: Annotated[int, kinds.whole(1, 100_000, "processes")] = Field(
        default=1,
        validation_alias="SARK_EXPECTED_PROCESSES",
        description="Processes that share the limits: each counts its part while it is `local`.",
    )
    limit_ipv6_prefix: Annotated[int, kinds.whole(1, 128, "bits")] = Field(
        default=64,
        validation_alias="SARK_LIMIT_IPV6_PREFIX",
        description="By how much of an IPv6 address it is limited; 128: each address by itself.",
    )
    ratelimit_headers: Annotated[SentHeaders, kinds.choice("always", "refused", "off")] = Field(
        default="always",
        validation_alias="SARK_RATELIMIT_HEADERS",
        description=(
            "Which answers carry `RateLimit` and `RateLimit-Policy`: all that were charged, the "
            "refused (429), or none. `Retry-After` is sent with every 429."
        ),
    )
    legacy_ratelimit_headers: Annotated[LegacyHeaders, kinds.choice("off", "seconds", "epoch")] = (
        Field(
            default="off",
            validation_alias="SARK_LEGACY_RATELIMIT_HEADERS",
            description=(
                "Whether they carry `X-RateLimit-Limit`, `-Remaining` and `-Reset` too, the last "
                "in seconds from now or as Unix time."
            ),
        )
    )

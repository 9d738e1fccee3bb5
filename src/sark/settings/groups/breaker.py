"""The circuit breakers of the receivers of audit events."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from sark.settings import _kinds as kinds

__all__ = ["BreakerSettings"]


class BreakerSettings(BaseModel):
    """The circuit breakers of the receivers of audit events."""

    siem_breaker_failures: Annotated[int, kinds.whole(1, 1000, "failures")] = Field(
        default=5,
        validation_alias="SARK_SIEM_BREAKER_FAILURES",
        description="Consecutive failures, of all workers together, that open a sink's breaker.",
    )
    siem_breaker_rate: Annotated[float, kinds.number(0, 1, "share of calls")] = Field(
        default=0.5,
        validation_alias="SARK_SIEM_BREAKER_RATE",
        description="Share of failures in the window that opens it, too; 0: none.",
    )
    siem_breaker_minimum: Annotated[int, kinds.whole(1, 10**6, "calls")] = Field(
        default=20,
        validation_alias="SARK_SIEM_BREAKER_MINIMUM",
        description="Calls in the window below which that share is not computed.",
    )
    siem_breaker_window: Annotated[float, kinds.number(1, 3600, "seconds")] = Field(
        default=60.0,
        validation_alias="SARK_SIEM_BREAKER_WINDOW",
        description="Length of the window.",
    )
    siem_breaker_open: Annotated[float, kinds.number(0.05, 3600, "seconds")] = Field(
        default=1.0,
        validation_alias="SARK_SIEM_BREAKER_OPEN",
        description="How long it stays open the first time; each further time twice as long.",
    )
    siem_breaker_open_cap: Annotated[float, kinds.number(0.05, 3600, "seconds")] = Field(
        default=60.0,
        validation_alias="SARK_SIEM_BREAKER_OPEN_CAP",
        description="Longest time that it stays open.",
    )
    siem_breaker_probes: Annotated[int, kinds.whole(1, 100, "batches")] = Field(
        default=1,
        validation_alias="SARK_SIEM_BREAKER_PROBES",
        description="Batches that all workers together send to find out whether a receiver is up.",
    )

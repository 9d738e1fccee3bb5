"""How audit events reach the SIEM."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from sark.settings import _kinds as kinds

__all__ = ["ForwarderSettings"]


class ForwarderSettings(BaseModel):
    """How audit events reach the SIEM."""

    siem_forward: Annotated[bool, kinds.flag()] = Field(
        default=True,
        validation_alias="SARK_SIEM_FORWARD",
        description="Whether `sark serve` forwards events itself; otherwise run `sark worker`.",
    )
    siem_batch_events: Annotated[int, kinds.whole(1, 5000, "events")] = Field(
        default=1000,
        validation_alias="SARK_SIEM_BATCH_EVENTS",
        description="Most events in one batch.",
    )
    siem_batch_bytes: Annotated[int, kinds.whole(1024, 16 * 2**20, "bytes")] = Field(
        default=2**20,
        validation_alias="SARK_SIEM_BATCH_BYTES",
        description="Largest size of the queued events of one batch; a lone event may be larger.",
    )
    siem_batch_age_ms: Annotated[int, kinds.whole(10, 60_000, "milliseconds")] = Field(
        default=500,
        validation_alias="SARK_SIEM_BATCH_AGE_MS",
        description="Longest time that a batch waits to fill up.",
    )
    siem_concurrency: Annotated[int, kinds.whole(1, 64, "batches")] = Field(
        default=1,
        validation_alias="SARK_SIEM_CONCURRENCY",
        description=(
            "Most batches of one sink that a worker sends at a time; above 1 they may arrive out "
            "of order."
        ),
    )
    siem_timeout: Annotated[float, kinds.number(0, 300, "seconds", above=True)] = Field(
        default=10.0,
        validation_alias="SARK_SIEM_TIMEOUT",
        description="Longest wait for a receiver's answer to one batch.",
    )
    siem_retry_cap: Annotated[float, kinds.number(0, 3600, "seconds", above=True)] = Field(
        default=60.0,
        validation_alias="SARK_SIEM_RETRY_CAP",
        description="Longest pause before a batch is sent again, even if a receiver asks for more.",
    )
    siem_lease: Annotated[int, kinds.whole(1, 3600, "seconds")] = Field(
        default=30,
        validation_alias="SARK_SIEM_LEASE",
        description="Time after which a worker that no longer renews its lease loses its events.",
    )
    siem_lease_expiries: Annotated[int, kinds.whole(1, 1000, "leases")] = Field(
        default=5,
        validation_alias="SARK_SIEM_LEASE_EXPIRIES",
        description="How many leases an event may outlive before it becomes a dead letter.",
    )
    siem_gzip: Annotated[bool, kinds.flag()] = Field(
        default=True,
        validation_alias="SARK_SIEM_GZIP",
        description="Whether batches are compressed for receivers that take that.",
    )

"""The queue of audit events."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from sark.settings import _kinds as kinds

__all__ = ["AuditSettings"]


class AuditSettings(BaseModel):
    """The queue of audit events."""

    siem_max_events: Annotated[int, kinds.whole(1, 10**9, "entries")] = Field(
        default=100_000,
        validation_alias="SARK_SIEM_MAX_EVENTS",
        description="Most audit events in the queue.",
    )
    siem_max_bytes: Annotated[int, kinds.whole(1024, 2**40, "bytes")] = Field(
        default=256 * 2**20,
        validation_alias="SARK_SIEM_MAX_BYTES",
        description="Largest size of the audit events in the queue together.",
    )

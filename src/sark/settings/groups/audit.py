"""The queues of audit events."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from sark.settings import _kinds as kinds
from sark.settings._choices import AuditOverflow
from sark.settings._patterns import COMMON, field_patterns

__all__ = ["AuditSettings"]


class AuditSettings(BaseModel):
    """The queues of audit events: one for each sink."""

    siem_max_events: Annotated[int, kinds.whole(1, 10**9, "entries")] = Field(
        default=100_000,
        validation_alias="SARK_SIEM_MAX_EVENTS",
        description="Most audit events in a sink's queue, and most among its dead letters.",
    )
    siem_max_bytes: Annotated[int, kinds.whole(1024, 2**40, "bytes")] = Field(
        default=256 * 2**20,
        validation_alias="SARK_SIEM_MAX_BYTES",
        description="Largest size of the audit events in a sink's queue, or of its dead letters.",
    )
    siem_overflow: Annotated[AuditOverflow, kinds.choice("refuse", "drop_oldest")] = Field(
        default="refuse",
        validation_alias="SARK_SIEM_OVERFLOW",
        description=(
            "What happens when the queue and the spill store are full: `refuse` answers 503, "
            "`drop_oldest` drops the oldest events and counts them."
        ),
    )
    siem_event_bytes: Annotated[int, kinds.whole(2048, 2**20, "bytes")] = Field(
        default=32_768,
        validation_alias="SARK_SIEM_EVENT_BYTES",
        description="Largest audit event; what a larger one has too much is cut off and marked.",
    )
    siem_redact: Annotated[tuple[str, ...], field_patterns()] = Field(
        default=(COMMON,),
        validation_alias="SARK_SIEM_REDACT",
        description=(
            "Fields of a context whose values are kept out of audit events; `common` stands for "
            "passwords, tokens, keys and the like, see docs/audit-events.md."
        ),
    )

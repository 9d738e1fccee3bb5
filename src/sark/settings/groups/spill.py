"""Where audit events wait that Valkey does not take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field

from sark.settings import _kinds as kinds
from sark.settings._choices import SpillSync

__all__ = ["SpillSettings"]


class SpillSettings(BaseModel):
    """Where audit events wait that Valkey does not take."""

    spill_dir: Annotated[Path | None, kinds.path()] = Field(
        default=None,
        validation_alias="SARK_SPILL_DIR",
        description="Folder of the spill stores, on a local disk. Unset: `spill` in the data dir.",
    )
    spill_max_bytes: Annotated[int, kinds.whole(0, 2**40, "bytes")] = Field(
        default=2**30,
        validation_alias="SARK_SPILL_MAX_BYTES",
        description=(
            "Largest size of the events that wait in one process; 0 spills none, else at least "
            "SARK_SIEM_EVENT_BYTES for each sink."
        ),
    )
    spill_sync: Annotated[SpillSync, kinds.choice("full", "normal")] = Field(
        default="full",
        validation_alias="SARK_SPILL_SYNC",
        description=(
            "When spilled events are synced to disk: `full` before their requests are answered, "
            "so they outlive a power failure; with `normal` they outlive the process only."
        ),
    )

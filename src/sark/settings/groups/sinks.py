"""Where audit events go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel, Field, SecretStr

from sark.settings import _kinds as kinds
from sark.settings._sinks import SinkAddress

__all__ = ["SinkSettings"]


class SinkSettings(BaseModel):
    """Where audit events go."""

    siem_sinks: Annotated[tuple[SinkAddress, ...] | None, kinds.sinks()] = Field(
        default=None,
        validation_alias="SARK_SIEM_SINKS",
        description=(
            "Receivers of audit events, each with a queue of its own. Unset: `main`, the file "
            "`audit.jsonl` in the data folder."
        ),
    )
    siem_tokens: Annotated[Mapping[str, SecretStr] | None, kinds.sink_tokens()] = Field(
        default=None,
        validation_alias="SARK_SIEM_{NAME}_TOKEN",
        description="Credential of a sink, whose name in capitals stands for `{NAME}`.",
    )

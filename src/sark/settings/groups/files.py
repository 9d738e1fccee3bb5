"""Folders that outlive a process."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field

from sark.settings import _kinds as kinds

__all__ = ["FileSettings"]


class FileSettings(BaseModel):
    """Folders that outlive a process."""

    data_dir: Annotated[Path, kinds.path()] = Field(
        default=Path(".sark"),
        validation_alias="SARK_DATA_DIR",
        description="Folder of what must survive a restart, such as the embedded server's data.",
    )
    key_dir: Annotated[Path | None, kinds.path()] = Field(
        default=None,
        validation_alias="SARK_KEY_DIR",
        description=(
            "Folder of the secret keys that all processes of a deployment share; an empty one is "
            "filled at the first start. Required with `VALKEY_URL`; otherwise `keys` in the data "
            "folder."
        ),
    )
    key_watch_interval: Annotated[float, kinds.number(0, 3600, "seconds", above=True)] = Field(
        default=1.0,
        validation_alias="SARK_KEY_WATCH_INTERVAL",
        description="How often the folder of keys is looked at for a rotation of signing keys.",
    )

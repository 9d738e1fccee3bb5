"""Telling that what a command has recorded is on this machine's disk, and not in Valkey yet."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import typer

from sark.events import AuditSpilled, Hub
from sark.parts.spill import spill_folder
from sark.settings import Settings, mask_url

__all__ = ["spilled_told"]


@contextlib.contextmanager
def spilled_told(settings: Settings) -> Iterator[Hub]:
    """Give a hub for what a command opens; at the end of the block, tell what was spilled.

    A service logs and counts it and carries on; a command is gone, and its folder may be one that
    no service looks into. A block that fails says enough by its error.
    """
    hub = Hub()
    reasons: dict[str, None] = {}
    hub.on(AuditSpilled, lambda event: reasons.setdefault(event.reason))
    yield hub
    if reasons:
        typer.echo(
            f"sark: {_state_server(settings)} did not take the audit event ({', '.join(reasons)}); "
            f"it is in {spill_folder(settings)}, until a service or a command that uses this "
            "folder brings it to the queue",
            err=True,
        )


def _state_server(settings: Settings) -> str:
    url = settings.valkey_state_url or settings.valkey_url
    return "Valkey" if url is None else mask_url(url.get_secret_value())

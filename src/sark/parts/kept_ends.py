"""Whether the ``state`` server keeps what it is told, which outside sessions depend on.

An evicted session is a user who logs in again. But when the remembered end of an outside session is
evicted, a token that is still good begins that session anew. So such sessions are only begun where
nothing is evicted.
"""

from __future__ import annotations

from collections.abc import Mapping

from sark.errors import ConfigurationError, StoreError
from sark.settings import Settings
from sark.store import Store

__all__ = ["KEEPS_ALL", "check_ends_are_kept", "embedded_options"]

KEEPS_ALL = "noeviction"


def embedded_options(settings: Settings) -> Mapping[str, str]:
    """Options of an embedded server: it refuses writes when it is full, where ends must be kept."""
    return {"maxmemory-policy": KEEPS_ALL} if settings.session_adopt else {}


async def check_ends_are_kept(settings: Settings, store: Store) -> None:
    """Refuse to begin outside sessions on a server that may evict their ends.

    Raises:
        ConfigurationError: It may, or didn't answer.
    """
    if not settings.session_adopt:
        return
    try:
        reply = await store.state.execute("INFO", "memory", idempotent=True)
    except StoreError as error:
        raise ConfigurationError(
            f"SARK_SESSION_ADOPT: got true, expected a state server that says whether it evicts: "
            f"{error}"
        ) from None
    lines = (line.partition(b":") for line in bytes(reply).splitlines())
    told = {name.decode(): value.decode() for name, _, value in lines}
    most, policy = told.get("maxmemory", ""), told.get("maxmemory_policy", "")
    if policy == KEEPS_ALL or most == "0":
        return
    raise ConfigurationError(
        f"SARK_SESSION_ADOPT: got true while the state server evicts (maxmemory {most}, "
        f"maxmemory-policy {policy}), expected maxmemory-policy {KEEPS_ALL}: an evicted end of a "
        "session would let its tokens begin it again (VALKEY_STATE_URL names a server of its own)"
    )

"""Whether the servers let us in, asked at the start."""

from __future__ import annotations

from sark.errors import ConfigurationError
from sark.store import Store

__all__ = ["check_access"]

# Longer than a request may take: a first connection over TLS takes its time.
FIRST_CHECK_SECONDS = 2.0


async def check_access(store: Store) -> None:
    """Tell a wrong password at once; a server that is away is waited for.

    Raises:
        ConfigurationError: A server refuses the password or the user.
    """
    for health in await store.check(timeout=FIRST_CHECK_SECONDS):
        if health.refused:
            reason = " ".join(health.reason.split())
            raise ConfigurationError(
                f"Valkey refuses the password or the user (VALKEY_URL, VALKEY_PASSWORD): {reason}"
            )

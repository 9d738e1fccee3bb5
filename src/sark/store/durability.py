"""How safe a write has to be before it counts: who is waited for, and what they answered.

``WAIT`` and ``WAITAOF`` count what their own connection wrote before them, so they are sent behind
the write, on the same connection, in one round trip (Valkey documentation, ``WAIT``, ``WAITAOF``).
They block that connection on the server for as long as they wait.
"""

from __future__ import annotations

from typing import Any

from sark.errors import DurabilityError, ReplicationError, StoreCommandError
from sark.store.exchange import Command, value_of

__all__ = ["check_fsync", "check_replicas", "wait_for_fsync", "wait_for_replicas"]

# Left of a call's time for the answer, at most half of it: a shortfall shall be told as what it
# is, before the deadline cuts the call off.
RESERVE_SECONDS = 0.25


def wait_for_replicas(replicas: int, seconds: float) -> Command:
    """Spell the command that waits until replicas have acknowledged.

    Args:
        replicas: How many.
        seconds: What is left of the call's time.
    """
    return ("WAIT", replicas, _milliseconds(seconds))


def wait_for_fsync(seconds: float) -> Command:
    """Spell the command that waits until the server has synced its append-only file."""
    return ("WAITAOF", 1, 0, _milliseconds(seconds))


def check_replicas(acknowledged: Any, replicas: int, address: str) -> None:
    """Judge the reply to ``wait_for_replicas``.

    Raises:
        ReplicationError: Fewer replicas have the write.
        StoreCommandError: The server refused to wait.
    """
    count: int = value_of(acknowledged, address)
    if count < replicas:
        raise ReplicationError(f"{address}: {count} of {replicas} replicas acknowledged the write")


def check_fsync(synced: Any, address: str) -> None:
    """Judge the reply to ``wait_for_fsync``.

    A server without an append-only file has nothing to wait for, and says so in an error. It is
    asked each time, since ``CONFIG SET`` can switch the file on under a running server.

    Raises:
        DurabilityError: The write is not in the file yet.
        StoreCommandError: The server refused to wait for another reason.
    """
    try:
        local, _ = value_of(synced, address)
    except StoreCommandError as error:
        if "appendonly is disabled" in str(error):
            return
        raise
    if not local:
        raise DurabilityError(f"{address}: the write is not yet in the append-only file on disk")


def _milliseconds(seconds: float) -> int:
    # At least one: 0 would wait for ever.
    return max(1, int((seconds - min(seconds / 2, RESERVE_SECONDS)) * 1000))

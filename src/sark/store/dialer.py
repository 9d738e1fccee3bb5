"""Connecting, again and again with pauses, until it works or makes no sense any more."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from valkey import exceptions as driver

from sark.store.connection import StoreConnection

__all__ = ["Attempt", "Dialer"]

FIRST_BACKOFF_SECONDS = 0.01
LONGEST_BACKOFF_SECONDS = 0.5


@dataclass(slots=True)
class Attempt:
    """How far one call came before it failed, and why it last failed to connect."""

    stage: Literal["starting", "waiting", "connecting", "sent"] = "starting"
    reason: str = ""


class Dialer:
    """Connects to one server, and counts how that went.

    Args:
        make: Makes an unconnected connection.
        timeout: Seconds for one attempt, handshake included.

    Attributes:
        make: As given.
        timeout: As given.
        connects: Connections made.
        failures: Attempts that failed.
    """

    def __init__(self, make: Callable[[], StoreConnection], *, timeout: float) -> None:
        self.make = make
        self.timeout = timeout
        self.connects = 0
        self.failures = 0

    async def dial(
        self, connection: StoreConnection, attempt: Attempt, check_going_on: Callable[[], None]
    ) -> None:
        """Connect; when that fails, again after a jittered pause, for as long as it is awaited.

        Args:
            connection: What to connect.
            attempt: Notes why an attempt failed.
            check_going_on: Called after each failed attempt; raises to end the retries.

        Raises:
            Exception: The driver's error, when connecting cannot succeed (wrong password).
        """
        pause = FIRST_BACKOFF_SECONDS
        while True:
            try:
                async with asyncio.timeout(self.timeout):
                    await connection.open()
            except (driver.AuthenticationError, driver.AuthorizationError, driver.ResponseError):
                # The server answers and refuses: asking again would not change its mind.
                self.failures += 1
                raise
            except (driver.ConnectionError, driver.TimeoutError, TimeoutError, OSError) as error:
                self.failures += 1
                attempt.reason = str(error) or "no connection in time"
                await connection.disconnect(nowait=True)
                check_going_on()
            else:
                self.connects += 1
                return
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
            pause = min(pause * 2, LONGEST_BACKOFF_SECONDS)

"""The public keys of one outside issuer: cached, refreshed ahead, kept for a while when it is down.

Requests hardly ever wait for an issuer: its keys are fetched at the start and in intervals. Only a
token with a key that isn't known makes a request ask again, and no more often than every
``UNKNOWN_KEY_SECONDS``, so that nobody can use this service to flood an issuer with questions.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from sark.errors import IssuerUnavailableError, TokenError
from sark.events import Hub, IssuerKeysFetched, IssuerUnavailable
from sark.sessions.tokens.keys import FoundKey, VerificationKey

__all__ = ["Fetch", "IssuerKeys"]

Fetch = Callable[[], Awaitable[dict[str, VerificationKey]]]
"""Asks the issuer; raises ``IssuerUnavailableError``."""

UNKNOWN_KEY_SECONDS = 10.0
FIRST_RETRY_SECONDS = 1.0
LONGEST_RETRY_SECONDS = 60.0
WAIT_SECONDS = 0.25
"""How long a request waits for the issuer at most; the question itself may go on for longer."""


class IssuerKeys:
    """The keys of an issuer as this process knows them.

    Args:
        issuer: The issuer (``iss``).
        fetch: Asks it for its keys.
        refresh: Seconds between two questions while it answers.
        stale: Seconds for which keys stay in use after the last answer.
        hub: Where answers and their absence are reported.
        clock: Unix time.

    Attributes:
        issuer: The issuer.
        version: Another number after each change: what was verified before is to be forgotten.
    """

    def __init__(
        self,
        issuer: str,
        fetch: Fetch,
        *,
        refresh: float,
        stale: float,
        hub: Hub,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.issuer = issuer
        self.version = 0
        self._fetch = fetch
        self._refresh = refresh
        self._stale = stale
        self._hub = hub
        self._clock = clock
        self._keys: dict[str, VerificationKey] = {}
        self._usable_until = float("-inf")
        self._next_question = float("-inf")
        self._retry = FIRST_RETRY_SECONDS
        self._failure = "it has not been asked yet"
        self._asking: asyncio.Task[None] | None = None

    async def find(self, kid: str) -> FoundKey:
        """Find the key that a token names.

        Raises:
            TokenError: ``unknown_key``: the issuer has no such key.
            IssuerUnavailableError: It may have, but it doesn't answer.
        """
        if not self._usable() or kid not in self._keys:
            await self._ask_for_unknown()
        key = self._keys.get(kid) if self._usable() else None
        if key is not None:
            return FoundKey(key, self._usable_until)
        if self._asking is not None:
            raise IssuerUnavailableError(self.issuer, "it has not answered yet")
        if self._failure or not self._usable():
            raise IssuerUnavailableError(self.issuer, self._failure or "it was not asked in time")
        raise TokenError("unknown_key", "kid names no key of the issuer")

    async def run(self) -> None:
        """Keep the keys fresh until cancelled."""
        try:
            while True:
                await self._ask()
                await asyncio.sleep(self._retry if self._failure else self._refresh)
        finally:
            if self._asking is not None:
                self._asking.cancel()
                await asyncio.gather(self._asking, return_exceptions=True)

    def _usable(self) -> bool:
        return self._clock() < self._usable_until

    async def _ask_for_unknown(self) -> None:
        now = time.monotonic()
        if self._asking is None and now < self._next_question:
            return
        self._next_question = now + UNKNOWN_KEY_SECONDS
        # The question goes on when this request has given up: others wait for its answer too.
        await asyncio.wait({self._question()}, timeout=WAIT_SECONDS)

    async def _ask(self) -> None:
        await asyncio.wait({self._question()})

    def _question(self) -> asyncio.Task[None]:
        """Join the question under way, or ask."""
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask_once(), name="sark-issuer-keys")
            self._asking.add_done_callback(self._answered)
        return self._asking

    def _answered(self, task: asyncio.Task[None]) -> None:
        self._asking = None
        if not task.cancelled():
            task.result()

    async def _ask_once(self) -> None:
        try:
            keys = await self._fetch()
        except IssuerUnavailableError as error:
            again = 2 * self._retry if self._failure else FIRST_RETRY_SECONDS
            self._retry = min(again, LONGEST_RETRY_SECONDS)
            self._failure = error.reason
            self._hub.emit(IssuerUnavailable(self.issuer, error.reason, usable=self._usable()))
            return
        self._failure = ""
        self._usable_until = self._clock() + self._stale
        changed = _material(keys) != _material(self._keys)
        self._keys = keys
        self.version += changed
        self._hub.emit(IssuerKeysFetched(self.issuer, len(keys), changed=changed))


def _material(keys: dict[str, VerificationKey]) -> dict[str, tuple[str, bytes]]:
    return {kid: (key.algorithm, key.material) for kid, key in keys.items()}

"""Ending sessions before their time, for good.

An end is told only when it outlives a crash of the server: acknowledged by replicas where there
are any, else on disk where the server keeps an append-only file.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence

from sark.errors import StoreError
from sark.events import RefreshReused, SessionEnded
from sark.sessions import scripts
from sark.sessions.checks import session_keys
from sark.sessions.claims import AccessClaims
from sark.sessions.session import Revocation, SessionRules, milliseconds
from sark.store import ScriptCall, Store

__all__ = ["InvalidateUser", "Revocations"]

InvalidateUser = Callable[[str], Awaitable[str]]

SWEEP_TIMEOUT_SECONDS = 1.0
MAX_LEFT_OVER = 10_000


class Revocations:
    """Ends sessions.

    Args:
        store: Where sessions live.
        rules: How long tokens live.
        invalidate_user: Revokes a user's cached decisions; returns a freshness token.
        replicas: How many replicas have to acknowledge an end.
    """

    def __init__(
        self, store: Store, rules: SessionRules, invalidate_user: InvalidateUser, replicas: int
    ) -> None:
        self._store = store
        self._rules = rules
        self._invalidate_user = invalidate_user
        self._replicas = replicas
        # Hashes of ended sessions, in groups of one user each.
        self._left_over: list[list[str]] = []

    async def revoke(self, user_id: str, session_id: str) -> Revocation:
        """See ``Sessions.revoke``."""
        was_alive = await self._end(user_id, session_id)
        return await self._revoked(user_id, (session_id,) if was_alive else ())

    async def revoke_user(self, user_id: str, except_session: str | None) -> Revocation:
        """See ``Sessions.revoke_user``."""
        reply = await self._store.state.run_durable(
            scripts.REVOKE_USER,
            [self._store.keys.session_index(user_id), self._store.keys.session_not_before(user_id)],
            [except_session or "", milliseconds(self._rules.end_memory)],
            replicas=self._replicas,
            idempotent=True,
        )
        ended = tuple(session_id.decode() for session_id in reply.value)
        self.leave_over(user_id, ended)
        return await self._revoked(user_id, ended)

    async def revoke_token(self, claims: AccessClaims) -> None:
        """See ``Sessions.revoke_token``."""
        memory = self._rules.token_memory(claims.expires_at - claims.issued_at)
        await self._store.state.run_durable(
            scripts.REVOKE_TOKEN,
            [self._store.keys.session_token(claims.user_id, claims.token_id)],
            [milliseconds(memory)],
            replicas=self._replicas,
            idempotent=True,
        )

    async def confirm_reuse(self, user_id: str, session_id: str) -> None:
        """Make the end of a session durable whose refresh token was copied.

        It has ended already. Whether its end can be made safe or not, the token is refused; a
        failure is reported with the event.
        """
        failure = ""
        try:
            await self._end(user_id, session_id)
            await self._invalidate_user(user_id)
        except StoreError as error:
            failure = str(error)
        self._store.hub.emit(SessionEnded("reuse", 1))
        self._store.hub.emit(RefreshReused(user_id, session_id, failure))

    def leave_over(self, user_id: str, ended: Sequence[str]) -> None:
        """Note that a script ended sessions whose hashes it could not be told of."""
        if ended and len(self._left_over) < MAX_LEFT_OVER:
            keys = self._store.keys
            self._left_over.append([keys.session_user(user_id, each) for each in ended])

    async def sweep(self) -> int:
        """See ``Sessions.sweep``."""
        groups, self._left_over = self._left_over, []
        if not groups:
            return 0
        deadline = asyncio.get_running_loop().time() + SWEEP_TIMEOUT_SECONDS
        calls = [ScriptCall(scripts.SWEEP, keys) for keys in groups]
        replies, _ = await self._store.state.exchange(calls, deadline=deadline, idempotent=True)
        return sum(replies)

    async def sweep_forever(self, interval: float) -> None:
        """See ``Sessions.sweep_forever``."""
        while True:
            await asyncio.sleep(interval)
            with contextlib.suppress(StoreError):
                await self.sweep()

    async def _end(self, user_id: str, session_id: str) -> bool:
        reply = await self._store.state.run_durable(
            scripts.REVOKE,
            session_keys(self._store.keys, user_id, session_id),
            [session_id],
            replicas=self._replicas,
            idempotent=True,
        )
        return bool(reply.value)

    async def _revoked(self, user_id: str, ended: tuple[str, ...]) -> Revocation:
        """Revoke the decisions about the user too, so that no later answer rests on the session."""
        if ended:
            self._store.hub.emit(SessionEnded("revoked", len(ended)))
        return Revocation(ended, await self._invalidate_user(user_id))

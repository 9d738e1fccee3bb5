"""Which sessions a user has."""

from __future__ import annotations

from sark.sessions import scripts
from sark.sessions.checks import session_keys
from sark.sessions.session import Session, session_of
from sark.store import ScriptCall, Store

__all__ = ["Directory"]


class Directory:
    """Reads sessions that are alive, from the primary.

    Args:
        store: Where they live.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    async def get(self, user_id: str, session_id: str, deadline: float | None) -> Session | None:
        """See ``Sessions.get``."""
        call = self._get(user_id, session_id)
        replies, _ = await self._store.state.exchange([call], deadline=deadline, idempotent=True)
        return session_of(user_id, session_id, replies[0])

    async def ids(self, user_id: str, deadline: float | None) -> list[str]:
        """List the ids of a user's sessions, those that end first before the others."""
        key = self._store.keys.session_index(user_id)
        reply = await self._store.state.run(scripts.IDS, [key], deadline=deadline, idempotent=True)
        return [session_id.decode() for session_id in reply.value]

    async def read(self, user_id: str, deadline: float | None) -> list[Session]:
        """See ``Sessions.list``."""
        ids = await self.ids(user_id, deadline)
        if not ids:
            return []
        calls = [self._get(user_id, session_id) for session_id in ids]
        replies, _ = await self._store.state.exchange(calls, deadline=deadline, idempotent=True)
        found = [
            session_of(user_id, session_id, reply)
            for session_id, reply in zip(ids, replies, strict=True)
        ]
        alive = [session for session in found if session is not None]
        return sorted(alive, key=lambda each: (each.created_at, each.session_id), reverse=True)

    def _get(self, user_id: str, session_id: str) -> ScriptCall:
        return ScriptCall(
            scripts.GET, session_keys(self._store.keys, user_id, session_id), [session_id]
        )

"""Figures of sessions: an adapter on events, and one report of everything.

Counters are of this process, since its start. What Valkey holds is estimated from a bounded sample.
"""

from __future__ import annotations

from collections import Counter

import msgspec

from sark.errors import StoreError
from sark.events import (
    Hub,
    RefreshReused,
    SessionCreated,
    SessionEnded,
    SessionRefused,
    TokenRefreshed,
)
from sark.ops.key_sample import average_bytes, sample_keys
from sark.runtime import Runtime
from sark.store import Server

__all__ = ["SessionCounts", "SessionReport", "StoredSessions", "collect_session_report"]

SESSIONS, TOKENS, INDEXES = "session_user", "session_token", "session_index"


class StoredSessions(msgspec.Struct, frozen=True):
    """What the server of state holds of sessions.

    Attributes:
        sessions: Sessions, by their hashes. Some may have ended: those are removed a little later.
        tokens: Access tokens that have not expired.
        users: Users who have, or lately had, sessions.
        estimated: Whether these numbers are extrapolated from ``sampled_keys``.
        sampled_keys: Keys of any kind that were looked at.
        average_bytes: Memory of a session's hash with its key, the mean of up to a hundred. Its
            place in the index and its tokens are not in it.
    """

    sessions: int
    tokens: int
    users: int
    estimated: bool
    sampled_keys: int
    average_bytes: float | None


class Verifications(msgspec.Struct, frozen=True):
    """Access tokens whose signature was asked for.

    Attributes:
        remembered: Answered from memory.
        computed: All others, refused ones among them.
    """

    remembered: int
    computed: int


class SessionReport(msgspec.Struct, frozen=True):
    """Everything about sessions.

    Attributes:
        created: Logins of this process.
        refreshed: Refresh tokens that it traded.
        reused: Copied refresh tokens that it refused.
        ended: Sessions that it ended before their time, by reason.
        refused: Tokens and sessions that it refused, by code.
        verifications: Signatures of access tokens.
        stored: What Valkey holds; None when it does not answer.
    """

    created: int
    refreshed: int
    reused: int
    ended: dict[str, int]
    refused: dict[str, int]
    verifications: Verifications
    stored: StoredSessions | None


class SessionCounts:
    """Counts what happens to sessions.

    Args:
        hub: Whose events are counted.
    """

    def __init__(self, hub: Hub) -> None:
        self.created = 0
        self.refreshed = 0
        self.reused = 0
        self.ended: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        hub.on(SessionCreated, self._on_created)
        hub.on(TokenRefreshed, self._on_refreshed)
        hub.on(RefreshReused, self._on_reused)
        hub.on(SessionEnded, self._on_ended)
        hub.on(SessionRefused, self._on_refused)

    def _on_created(self, _: SessionCreated) -> None:
        self.created += 1

    def _on_refreshed(self, _: TokenRefreshed) -> None:
        self.refreshed += 1

    def _on_reused(self, _: RefreshReused) -> None:
        self.reused += 1

    def _on_ended(self, event: SessionEnded) -> None:
        self.ended[event.reason] += event.sessions

    def _on_refused(self, event: SessionRefused) -> None:
        self.refused[event.code] += 1


async def collect_session_report(runtime: Runtime, counts: SessionCounts) -> SessionReport:
    """Ask all parts."""
    return SessionReport(
        created=counts.created,
        refreshed=counts.refreshed,
        reused=counts.reused,
        ended=dict(counts.ended),
        refused=dict(counts.refused),
        verifications=Verifications(runtime.tokens.hits, runtime.tokens.misses),
        stored=await _stored(runtime.store.state),
    )


async def _stored(server: Server) -> StoredSessions | None:
    try:
        sample = await sample_keys(server)
        hashes = sample.of(SESSIONS)
        average = await average_bytes(server, hashes)
    except StoreError:
        return None
    return StoredSessions(
        sessions=sample.estimate(len(hashes)),
        tokens=sample.estimate(len(sample.of(TOKENS))),
        users=sample.estimate(len(sample.of(INDEXES))),
        estimated=not sample.complete,
        sampled_keys=len(sample.keys),
        average_bytes=average,
    )

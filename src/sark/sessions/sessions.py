"""Sessions on the ``state`` server: begin, check, refresh, end.

The index of a user's sessions is authoritative: a session is alive while it is listed there with a
time that has not come. Every write checks that in its own script, so nothing brings a session back
that was revoked meanwhile. Each operation is one script call. Sessions are read from the primary
only.
"""

from __future__ import annotations

from collections.abc import Sequence

from uuid_utils import uuid7

from sark.errors import TokenError
from sark.events import RefreshRepeated, TokenRefreshed
from sark.sessions import scripts
from sark.sessions.adoptions import Adoptions
from sark.sessions.checks import SessionChecks, session_keys
from sark.sessions.claims import AccessClaims, AccessTokens
from sark.sessions.directory import Directory
from sark.sessions.grants import Grants
from sark.sessions.logins import Logins, Origin, Subject
from sark.sessions.refresh_token import RefreshClaims, RefreshTokens, token_hash
from sark.sessions.revocations import InvalidateUser, Revocations
from sark.sessions.session import (
    MAX_USER_ID_BYTES,
    Grant,
    Revocation,
    Session,
    SessionRules,
    check_text,
    milliseconds,
)
from sark.sessions.verdicts import error_of, refused
from sark.store import Argument, Store

__all__ = ["Sessions"]

SWEEP_INTERVAL_SECONDS = 1.0
MOST_FORGOTTEN_TRADES = 2
"""Trades of one session within the second of writes that a killed server may forget; one is usual.

It bounds what a counter from the future may claim, so that somebody who got at a key still has to
know how far a session is. A retired key has made no token since, so its counters claim none.
"""


class Sessions:
    """See the module's description. Safe to share between tasks of one event loop.

    Args:
        store: Where sessions live.
        tokens: Signs and verifies access tokens.
        refresh_tokens: Makes and reads refresh tokens.
        rules: How long sessions live, and how many a user may have.
        issuer: Named in the access tokens.
        invalidate_user: Revokes a user's cached decisions; returns a freshness token.
        replicas: How many replicas have to acknowledge a revocation.

    Attributes:
        checks: The check of an access token in parts, for those who send it with other work.
    """

    def __init__(
        self,
        store: Store,
        tokens: AccessTokens,
        *,
        refresh_tokens: RefreshTokens,
        rules: SessionRules,
        issuer: str,
        invalidate_user: InvalidateUser,
        replicas: int = 0,
    ) -> None:
        self._store = store
        self._refresh_tokens = refresh_tokens
        self._rules = rules
        self._grants = Grants(tokens, issuer=issuer, access_life=rules.access)
        self.checks = SessionChecks(store, tokens, rules)
        self._revocations = Revocations(store, rules, invalidate_user, replicas)
        self._directory = Directory(store)
        self._logins = Logins(store, rules, self._revocations)
        self._adoptions = Adoptions(store, rules, self._logins)

    async def create(
        self,
        user_id: str,
        *,
        client_id: str = "",
        ip: str | None = None,
        user_agent: str | None = None,
        tier: str = "",
        deadline: float | None = None,
    ) -> Grant:
        """Begin a session for a user whom the caller has authenticated: one round trip.

        Args:
            user_id: The user; 1 to 256 bytes.
            client_id: The client that the user logged in with; at most 256 bytes.
            ip: The address that the user came from.
            user_agent: The user's ``User-Agent``; a summary of it is kept.
            tier: The user's plan, which the access tokens will name; at most 64 bytes.
            deadline: On the event loop's clock, in seconds.

        Returns:
            The session's first tokens.

        Raises:
            InvalidRequestError: A field is unusable, or sessions are bound to one that is missing.
            SessionCapError: The user has as many sessions as are allowed (``at_cap="refuse"``).
            StoreError: It isn't known whether the session began; if so, it is left to expire.
        """
        check_text("user_id", user_id, most=MAX_USER_ID_BYTES)
        first = RefreshClaims(user_id, str(uuid7()), 0)
        key = self._refresh_tokens.active
        refresh_token, jti = key.issue(first), key.access_token_id(first)
        created_at, expires_at = await self._logins.begin(
            Subject(user_id, first.session_id, jti),
            [
                *("refresh_token_hash", token_hash(refresh_token)),
                *("refresh_counter", 0),
                *self._logins.fields(Origin(client_id, ip, user_agent), tier),
            ],
            deadline,
        )
        return self._grants.grant(
            first,
            key,
            client_id=client_id,
            tier=tier,
            issued_ms=created_at,
            ends_ms=expires_at,
            now_ms=created_at,
        )

    async def authenticate(
        self,
        access_token: str,
        *,
        ip: str | None = None,
        user_agent: str | None = None,
        deadline: float | None = None,
    ) -> AccessClaims:
        """Accept an access token whose session is alive, or say why not: one round trip.

        Args:
            access_token: The token.
            ip: Where it comes from; needed when sessions are bound to their network.
            user_agent: What it comes with; needed when they are bound to that.
            deadline: On the event loop's clock, in seconds.

        Raises:
            TokenError: The token isn't accepted.
            SessionEndedError: Its session has ended.
            BindingError: It is used from elsewhere.
            StoreError: The server did not answer, so it isn't accepted.
        """
        claims = await self.checks.verify(access_token)
        await self.adopt(claims, ip=ip, user_agent=user_agent, deadline=deadline)
        await self.checks.check(claims, ip, user_agent, deadline)
        return claims

    async def adopt(
        self,
        claims: AccessClaims,
        *,
        ip: str | None = None,
        user_agent: str | None = None,
        deadline: float | None = None,
    ) -> None:
        """Begin the session of an outside issuer's token, if it is the first of it seen here.

        One round trip for each such token and process (and minute); none for our own tokens. A
        session that somebody ended is not begun again, whatever tokens come of it. One that was not
        used for too long is, by a token that was issued afterwards.

        Raises:
            TokenError: Sessions are not adopted (``no_session``), the token lives longer than a
                session may (``lifetime``), or was revoked.
            SessionEndedError: It began before and has ended, or the user's sessions were all
                ended after the token was issued.
            SessionCapError: As in ``create``.
            BindingError: As in ``authenticate``.
            StoreError: The server did not answer.
        """
        await self._adoptions.adopt(claims, ip, user_agent, deadline)

    async def refresh(
        self,
        refresh_token: str,
        *,
        ip: str | None = None,
        user_agent: str | None = None,
        deadline: float | None = None,
    ) -> Grant:
        """Trade a refresh token for new tokens: one round trip.

        Within the grace, who trades the same token again is given the tokens that are current then.

        Args:
            refresh_token: The token.
            ip: As in ``authenticate``.
            user_agent: As in ``authenticate``.
            deadline: On the event loop's clock, in seconds.

        Raises:
            TokenError: The token isn't one of ours; nothing was asked of the server.
            SessionEndedError: Its session has ended.
            BindingError: It is used from elsewhere; it stays good.
            RefreshReuseError: It was traded before: its session has ended now.
            StoreError: It isn't known whether it was traded; ask again.
        """
        try:
            claims = self._refresh_tokens.read(refresh_token)
        except TokenError as error:
            raise refused(self._store.hub, error) from None
        reply = await self._store.state.run(
            scripts.REFRESH,
            self._refresh_keys(claims),
            self._refresh_arguments(refresh_token, claims, ip, user_agent),
            deadline=deadline,
        )
        verdict, *told = (part.decode() for part in reply.value)
        if verdict not in {"ok", "again"}:
            refusal = error_of(verdict)
            if verdict == "reuse":
                refusal.session_id = claims.session_id
                await self._revocations.confirm_reuse(claims.user_id, claims.session_id)
            raise refused(self._store.hub, refusal, claims.user_id)
        counter, stored_hash, rotated_at, expires_at, now, client_id, tier = told
        current = RefreshClaims(claims.user_id, claims.session_id, int(counter))
        key = self._refresh_tokens.key_of(current, stored_hash)
        if key is None:
            raise refused(self._store.hub, error_of("unknown"), claims.user_id)
        self._store.hub.emit(TokenRefreshed() if verdict == "ok" else RefreshRepeated())
        return self._grants.grant(
            current,
            key,
            client_id=client_id,
            tier=tier,
            issued_ms=int(rotated_at),
            ends_ms=int(expires_at),
            now_ms=int(now),
        )

    def _refresh_keys(self, claims: RefreshClaims) -> list[str]:
        """Name the session, and the access tokens of the successor and of older generations."""
        keys, user_id = self._store.keys, claims.user_id
        generations = [
            RefreshClaims(user_id, claims.session_id, counter)
            for counter in (claims.counter + 1, claims.counter - 1, claims.counter - 4)
            if counter >= 0
        ]
        ids = map(self._refresh_tokens.access_token_id, generations)
        tokens = [keys.session_token(user_id, each) for each in ids]
        return [*session_keys(keys, user_id, claims.session_id), *tokens]

    def _refresh_arguments(
        self, refresh_token: str, claims: RefreshClaims, ip: str | None, user_agent: str | None
    ) -> list[Argument]:
        following = claims.successor()
        key, rules = self._refresh_tokens.active, self._rules
        old_key = self._refresh_tokens.is_of_retired_key(refresh_token)
        return [
            *(claims.session_id, claims.counter),
            *(token_hash(refresh_token), token_hash(key.issue(following))),
            key.access_token_id(following),
            *map(milliseconds, (rules.grace, rules.idle, rules.access)),
            *self.checks.binding(claims.user_id, ip, user_agent),
            0 if old_key else MOST_FORGOTTEN_TRADES,
        ]

    async def touch(self, user_id: str, session_id: str, *, deadline: float | None = None) -> None:
        """Note that a session is in use, as a check does; at most once a minute is written.

        Raises:
            SessionEndedError: It has ended.
            StoreError: The server did not answer.
        """
        await self.checks.touch(user_id, session_id, deadline)

    async def revoke(self, user_id: str, session_id: str) -> Revocation:
        """End one session, for instance when its user logs out.

        Returns when that is safe from a crash: acknowledged by the replicas, or on disk where the
        server keeps an append-only file. A session that isn't there is no error.

        Raises:
            StoreError: It may not have ended, or may come back after a crash; ask again.
        """
        return await self._revocations.revoke(user_id, session_id)

    async def revoke_user(self, user_id: str, *, except_session: str | None = None) -> Revocation:
        """End all sessions of a user, or all but one; as ``revoke``."""
        return await self._revocations.revoke_user(user_id, except_session)

    async def revoke_token(self, claims: AccessClaims) -> None:
        """Refuse one access token from now on; its session goes on. Safe as in ``revoke``.

        Raises:
            StoreError: It may still be accepted; ask again.
        """
        await self._revocations.revoke_token(claims)

    async def get(
        self, user_id: str, session_id: str, *, deadline: float | None = None
    ) -> Session | None:
        """Read a session; None when it isn't alive.

        Raises:
            StoreError: The server did not answer.
        """
        return await self._directory.get(user_id, session_id, deadline)

    async def list(self, user_id: str, *, deadline: float | None = None) -> Sequence[Session]:
        """Read a user's sessions, the newest first: two round trips.

        Raises:
            StoreError: The server did not answer.
        """
        return await self._directory.read(user_id, deadline)

    async def count(self, user_id: str, *, deadline: float | None = None) -> int:
        """Count a user's sessions.

        Raises:
            StoreError: The server did not answer.
        """
        return len(await self._directory.ids(user_id, deadline))

    async def sweep(self) -> int:
        """Remove hashes of sessions that were ended without being named by the caller.

        They count for nothing and would go by their TTL; this only frees memory sooner.

        Returns:
            How many were removed.

        Raises:
            StoreError: The server did not answer; what was left over then stays until its TTL.
        """
        return await self._revocations.sweep()

    async def sweep_forever(self, *, interval: float = SWEEP_INTERVAL_SECONDS) -> None:
        """Sweep now and then."""
        await self._revocations.sweep_forever(interval)

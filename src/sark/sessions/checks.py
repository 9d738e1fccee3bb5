"""Whether an access token is accepted: the token by its signature, its session by the server."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from sark.errors import BindingError, TokenError
from sark.keyspace import Keyspace
from sark.sessions import scripts
from sark.sessions.binding import Binding
from sark.sessions.claims import AccessClaims, AccessTokens
from sark.sessions.session import SessionRules, milliseconds
from sark.sessions.verdicts import error_of, refused
from sark.store import Argument, Store

__all__ = ["NO_CHECK", "SessionCheck", "SessionChecks", "session_keys"]

NAMED_TOKENS = 4096


class SessionCheck(NamedTuple):
    """What ``session_check`` is given.

    Attributes:
        keys: Three keys, or none when there is no token to check.
        arguments: Five arguments, the first of them empty when there is no token.
    """

    keys: Sequence[str]
    arguments: tuple[Argument, ...]


NO_CHECK = SessionCheck((), ("", 0, 0, "", ""))


class SessionChecks:
    """Checks access tokens and their sessions.

    Args:
        store: Where sessions live.
        tokens: Verifies access tokens.
        rules: How long sessions live without use, and what they are bound to.
    """

    def __init__(self, store: Store, tokens: AccessTokens, rules: SessionRules) -> None:
        self._store = store
        self._tokens = tokens
        self._bind = rules.bind
        self._idle_ms = milliseconds(rules.idle)
        self._seen_ms = milliseconds(rules.seen_every)
        # A client uses one token for many requests, whose checks are then the same but for what
        # sessions are bound to.
        self._unbound = lru_cache(maxsize=NAMED_TOKENS)(self._spell)

    async def check(
        self, claims: AccessClaims, ip: str | None, user_agent: str | None, deadline: float | None
    ) -> None:
        """Check that a verified token's session is alive: one round trip; errors as in ``judge``.

        Raises:
            StoreError: The server did not answer.
        """
        check = self.prepare(claims, ip, user_agent)
        reply = await self._store.state.run(
            scripts.CHECK, check.keys, check.arguments, deadline=deadline, idempotent=True
        )
        self.judge(claims.user_id, reply.value)

    async def verify(self, access_token: str) -> AccessClaims:
        """Verify a token alone; the server isn't asked whether its session is alive.

        Raises:
            TokenError: It isn't accepted.
        """
        try:
            return await self._tokens.verify(access_token)
        except TokenError as error:
            raise refused(self._store.hub, error) from error.__cause__

    def prepare(self, claims: AccessClaims, ip: str | None, user_agent: str | None) -> SessionCheck:
        """Spell the keys and arguments of ``session_check``.

        Raises:
            BindingError: The request doesn't say what sessions are bound to.
        """
        check = self._unbound(claims.user_id, claims.session_id, claims.token_id)
        if self._bind == "none":
            return check
        binding = self.binding(claims.user_id, ip, user_agent)
        return SessionCheck(check.keys, (*check.arguments[:-2], *binding))

    def _spell(self, user_id: str, session_id: str, token_id: str) -> SessionCheck:
        keys = self._store.keys
        return SessionCheck(
            (*session_keys(keys, user_id, session_id), keys.session_token(user_id, token_id)),
            (session_id, self._idle_ms, self._seen_ms, "", ""),
        )

    def binding(self, user_id: str, ip: str | None, user_agent: str | None) -> Binding:
        """Take what matters for the binding; errors as in ``prepare``."""
        try:
            return Binding.of(self._bind, ip, user_agent)
        except BindingError as error:
            raise refused(self._store.hub, error, user_id) from None

    def judge(self, user_id: str, verdict: bytes) -> None:
        """Interpret what ``session_check`` returned; no I/O.

        Raises:
            TokenError: The token was revoked, or the server doesn't know it.
            SessionEndedError: Its session has ended.
            BindingError: It is used from elsewhere.
        """
        if verdict != b"ok":
            raise refused(self._store.hub, error_of(verdict.decode()), user_id)

    async def touch(self, user_id: str, session_id: str, deadline: float | None) -> None:
        """See ``Sessions.touch``."""
        reply = await self._store.state.run(
            scripts.TOUCH,
            session_keys(self._store.keys, user_id, session_id),
            [session_id, self._idle_ms, self._seen_ms],
            deadline=deadline,
            idempotent=True,
        )
        self.judge(user_id, reply.value)


def session_keys(keys: Keyspace, user_id: str, session_id: str) -> list[str]:
    """Name a user's index and the hash of one session, with which most scripts begin."""
    return [keys.session_index(user_id), keys.session_user(user_id, session_id)]

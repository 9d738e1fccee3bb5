"""How sessions begin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sark.errors import BindingError, InvalidRequestError
from sark.events import SessionCreated, SessionEnded
from sark.sessions import scripts
from sark.sessions.binding import Binding, canonical_ip
from sark.sessions.checks import session_keys
from sark.sessions.revocations import Revocations
from sark.sessions.session import (
    MAX_CLIENT_ID_BYTES,
    MAX_TIER_BYTES,
    MAX_USER_AGENT_BYTES,
    SessionRules,
    check_text,
    milliseconds,
)
from sark.sessions.user_agent import user_agent_summary
from sark.sessions.verdicts import error_of, refused
from sark.store import Argument, Store

__all__ = ["Logins", "Origin", "Subject"]


class Subject(NamedTuple):
    """What begins.

    Attributes:
        user_id: Whose session.
        session_id: Its id.
        jti: Its first access token.
    """

    user_id: str
    session_id: str
    jti: str


class Origin(NamedTuple):
    """Where a session comes from; all of it may be unknown.

    Attributes:
        client_id: The client that the user logged in with.
        ip: The user's address.
        user_agent: The user's ``User-Agent``.
    """

    client_id: str
    ip: str | None
    user_agent: str | None


class Logins:
    """Begins sessions.

    Args:
        store: Where they live.
        rules: How long they live, how many a user may have, what they are bound to.
        revocations: Hears of sessions that made room.
    """

    def __init__(self, store: Store, rules: SessionRules, revocations: Revocations) -> None:
        self._store = store
        self._rules = rules
        self._revocations = revocations

    def fields(self, origin: Origin, tier: str = "") -> list[Argument]:
        """Check what a session is given, and spell it as fields of its hash.

        Raises:
            InvalidRequestError: It is unusable, or sessions are bound to what is missing.
        """
        check_text("client_id", origin.client_id, most=MAX_CLIENT_ID_BYTES, empty=True)
        check_text("tier", tier, most=MAX_TIER_BYTES, empty=True)
        user_agent = origin.user_agent or ""
        check_text("user_agent", user_agent, most=MAX_USER_AGENT_BYTES, empty=True)
        try:
            binding = Binding.of(self._rules.bind, origin.ip, user_agent)
        except BindingError as error:
            field = "ip" if error.code == "network" else error.code
            raise InvalidRequestError(field, error.reason) from None
        fields = {
            "client_id": origin.client_id,
            "tier": tier,
            "ip": canonical_ip(origin.ip) if origin.ip else "",
            "user_agent": user_agent_summary(user_agent),
            "network": binding.network,
            "agent": binding.agent,
        }
        return [part for name, value in fields.items() if value for part in (name, value)]

    async def begin(
        self, subject: Subject, fields: Sequence[Argument], deadline: float | None
    ) -> tuple[int, int]:
        """Begin a session; returns when it began and when it will end, in milliseconds.

        Raises:
            SessionCapError: The user has as many sessions as are allowed.
            SessionEndedError: This very session began before, and has ended.
            StoreError: It isn't known whether it began.
        """
        rules, keys = self._rules, self._store.keys
        user_id, session_id, jti = subject
        arguments = [
            *self.bounds(session_id),
            milliseconds(min(rules.access, rules.lifetime)),
            *("access_token_jti", jti),
            *fields,
        ]
        # A repeat finds the session that the first attempt began.
        reply = await self._store.state.run(
            scripts.CREATE,
            [*session_keys(keys, user_id, session_id), keys.session_token(user_id, jti)],
            arguments,
            deadline=deadline,
            idempotent=True,
        )
        return self.begun(user_id, reply.value)

    def bounds(self, session_id: str) -> list[Argument]:
        """Spell the arguments with which both scripts that begin sessions start."""
        rules = self._rules
        lives = (milliseconds(rules.lifetime), milliseconds(rules.idle))
        return [session_id, rules.cap, rules.at_cap, *lives]

    def begun(self, user_id: str, reply: Sequence[bytes]) -> tuple[int, int]:
        """Interpret what they return; result and errors as in ``begin``."""
        verdict, *told = (part.decode() for part in reply)
        if verdict not in {"ok", "known"}:
            raise refused(self._store.hub, error_of(verdict), user_id)
        created_at, expires_at, *ended = told
        if verdict == "ok":
            self._store.hub.emit(SessionCreated())
        if ended:
            self._revocations.leave_over(user_id, ended)
            self._store.hub.emit(SessionEnded("cap", len(ended)))
        return int(created_at), int(expires_at)

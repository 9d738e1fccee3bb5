"""How the sessions of outside issuers begin: by the first token of them that is seen here.

Their tokens are issued elsewhere and stay good after a session was ended here. So the end is
remembered for as long as any token from before it could be accepted.
"""

from __future__ import annotations

from cachebox import TTLCache

from sark.errors import BindingError, TokenError
from sark.sessions import scripts
from sark.sessions.binding import Binding
from sark.sessions.checks import session_keys
from sark.sessions.claims import AccessClaims
from sark.sessions.logins import Logins, Origin
from sark.sessions.session import SessionRules, milliseconds
from sark.sessions.verdicts import error_of, refused
from sark.store import Argument, Store

__all__ = ["Adoptions"]

MAX_ADOPTED = 10_000
ADOPTED_SECONDS = 60.0
"""How long a process takes it that an outside token's session began, without asking."""


class Adoptions:
    """Begins sessions of outside issuers.

    Args:
        store: Where they live.
        rules: Whether they begin here, and how long they and their tokens may live.
        logins: Begins sessions.
    """

    def __init__(self, store: Store, rules: SessionRules, logins: Logins) -> None:
        self._store = store
        self._rules = rules
        self._logins = logins
        self._adopted: TTLCache[AccessClaims, bool] = TTLCache(MAX_ADOPTED, ADOPTED_SECONDS)

    async def adopt(
        self, claims: AccessClaims, ip: str | None, user_agent: str | None, deadline: float | None
    ) -> None:
        """See ``Sessions.adopt``."""
        if not claims.outside or self._adopted.get(claims):
            return
        self._check(claims, ip, user_agent)
        keys, user_id, session_id = self._store.keys, claims.user_id, claims.session_id
        # A repeat finds the session that the first attempt began.
        reply = await self._store.state.run(
            scripts.ADOPT,
            [
                *session_keys(keys, user_id, session_id),
                keys.session_token(user_id, claims.token_id),
                keys.session_not_before(user_id),
            ],
            [
                *self._logins.bounds(session_id),
                *self._times(claims),
                *("outside", 1, "access_token_jti", claims.token_id),
                *self._logins.fields(Origin(claims.client_id, ip, user_agent), claims.tier),
            ],
            deadline=deadline,
            idempotent=True,
        )
        self._logins.begun(user_id, reply.value)
        self._adopted.insert(claims, True)

    def _check(self, claims: AccessClaims, ip: str | None, user_agent: str | None) -> None:
        """Refuse what needs no question to the server."""
        rules, hub = self._rules, self._store.hub
        if not rules.adopt:
            raise refused(hub, error_of("no_session"), claims.user_id)
        if claims.expires_at - claims.issued_at > rules.lifetime:
            reason = f"the token lives longer than a session may: {rules.lifetime:g} s"
            raise refused(hub, TokenError("lifetime", reason), claims.user_id)
        try:
            Binding.of(rules.bind, ip, user_agent)
        except BindingError as error:
            raise refused(hub, error, claims.user_id) from None

    def _times(self, claims: AccessClaims) -> list[Argument]:
        """Spell the times of a token and what follows from them, in milliseconds."""
        rules = self._rules
        token_life = claims.expires_at - claims.issued_at
        latest_end, end_memory = 0, rules.end_memory
        if claims.single:
            # Nothing else belongs to the session, so nothing is left of it after its token.
            latest_end = milliseconds(claims.expires_at + rules.leeway)
            end_memory = rules.token_memory(0)
        return [
            milliseconds(rules.token_memory(token_life)),
            milliseconds(claims.issued_at),
            latest_end,
            milliseconds(end_memory),
        ]

"""Rate limits before any ASGI application."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from http import HTTPStatus

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sark.errors import SarkError
from sark.http.client_address import TrustedProxies
from sark.http.problems import limit_response, problem_of, problem_response
from sark.http.ratelimit_charging import ChargedBy, charge_request, refuse_useless
from sark.http.ratelimit_fields import Fields, LimitFields
from sark.http.ratelimit_state import limiter_of
from sark.ops.logs import logger
from sark.ops.quiet import Quiet
from sark.ratelimit import Charge, Identity, Limit, RateLimiter
from sark.ratelimit.named import NamedLimits, identities_of, qualify, refusal_of

__all__ = ["RateLimitMiddleware", "refuse_websocket", "with_fields"]

POLICY_VIOLATION, TRY_AGAIN_LATER = 1008, 1013
"""Codes that close a WebSocket (RFC 6455, section 7.4, and its registry)."""
_STARTS = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})


class RateLimitMiddleware:
    """Charges every request, and answers 429 to those that a limit refuses (403: the deny-list).

    A WebSocket is charged once, when it is opened. What happens while Valkey is away is the
    limiter's setting.

    Args:
        app: The application.
        limiter: Where to charge; by default what the application's ``state.sark`` holds.
        limits: Limits such as ``100/minute``. Without any the limiter's own rules apply, which
            may go by path.
        name: Keeps the counters of ``limits`` apart from others.
        namespace: Keeps them apart from those of other services on the same Valkey; services with
            the same namespace, or none, and the same name share them.
        identify: Tells who asks, from the ASGI scope: identities that are charged together. By
            default the client's address. Nobody (an empty list) is not limited.
        exclude: Paths that are not limited; one that ends in ``*`` stands for all that begin so.
        tier: The caller's plan, which the limiter's rules may look at: a text, or what gives it for
            a scope, from a verified claim alone.
        action: What is asked for, likewise.
        cost: How many requests one counts as: a number, or what gives it for a scope. Left out,
            what the rules say of the action, else 1.
        shadow: Count and report by ``limits``, and refuse nobody.
        proxies: Who is believed about the client's address; by default nobody.
        fields: What answers tell of the limits.

    Raises:
        ValueError: A limit, the name, the namespace or the cost is not usable, limits are given a
            tier or an action, or there is a shadow mode without limits.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        limiter: RateLimiter | None = None,
        limits: Sequence[str | Limit] = (),
        name: str = "middleware",
        namespace: str = "",
        identify: Callable[[Scope], Sequence[Identity]] | None = None,
        exclude: Iterable[str] = (),
        tier: str | Callable[[Scope], str | None] | None = None,
        action: str | Callable[[Scope], str | None] | None = None,
        cost: int | Callable[[Scope], int | None] | None = None,
        shadow: bool = False,
        proxies: TrustedProxies | None = None,
        fields: LimitFields | None = None,
    ) -> None:
        self._app = app
        self._limiter = limiter
        refuse_useless(limits, shadow=shadow, tier=tier, action=action)
        one = cost if isinstance(cost, int) else 1
        qualified = qualify(namespace, name)
        self._named = (
            NamedLimits(limits, name=qualified, cost=one, shadow=shadow) if limits else None
        )
        self._charged_by = _charged_by(tier, action, cost)
        self._identify = identify or _by_address(proxies or TrustedProxies())
        excluded = tuple(exclude)
        self._paths = frozenset(path for path in excluded if not path.endswith("*"))
        self._prefixes = tuple(path[:-1] for path in excluded if path.endswith("*"))
        self._fields = fields or LimitFields()
        self._failed = Quiet(logger("sark.http").warning)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Charge the request, and pass it on or refuse it."""
        if scope["type"] not in {"http", "websocket"} or self._is_excluded(scope["path"]):
            await self._app(scope, receive, send)
            return
        try:
            charge = await self._charge(scope)
        except SarkError as error:
            problem = problem_of(error)
            self._failed("request failed", problem=problem.type, reason=str(error))
            await _answer(problem_response(problem), scope, receive, send)
            return
        if charge.admitted:
            told = self._fields.admitted(charge.states)
            await self._app(scope, receive, with_fields(send, lambda: told) if told else send)
        else:
            refusal = limit_response(refusal_of(charge), self._fields)
            await _answer(refusal, scope, receive, send)

    async def _charge(self, scope: Scope) -> Charge:
        limiter = self._limiter or limiter_of(scope)
        identities = identities_of(self._identify(scope), "identify")
        by = self._charged_by(scope)
        return await charge_request(limiter, self._named, identities, scope["path"], by)

    def _is_excluded(self, path: str) -> bool:
        return path in self._paths or path.startswith(self._prefixes)


def with_fields(send: Send, fields: Callable[[], Fields]) -> Send:
    """Add header fields to the answer that goes through ``send``.

    Args:
        send: Where messages go.
        fields: Gives the fields when the answer starts.
    """

    async def send_with_fields(message: Message) -> None:
        if message["type"] in _STARTS and (added := fields()):
            message = {**message, "headers": [*message.get("headers", ()), *added]}
        await send(message)

    return send_with_fields


async def refuse_websocket(response: Response, scope: Scope, receive: Receive, send: Send) -> None:
    """Refuse to open a WebSocket: by the answer where the server can send it, else by closing.

    A server that is asked to close before it has accepted answers 403.
    """
    if "websocket.http.response" in scope.get("extensions", {}):
        await response(scope, receive, send)
    else:
        code = POLICY_VIOLATION if response.status_code == HTTPStatus.FORBIDDEN else TRY_AGAIN_LATER
        await send({"type": "websocket.close", "code": code, "reason": "rate limit"})


async def _answer(response: Response, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await response(scope, receive, send)
        return
    await receive()  # the client's wish to connect
    await refuse_websocket(response, scope, receive, send)


def _charged_by(
    tier: str | Callable[[Scope], str | None] | None,
    action: str | Callable[[Scope], str | None] | None,
    cost: int | Callable[[Scope], int | None] | None,
) -> Callable[[Scope], ChargedBy]:
    if not (callable(tier) or callable(action) or callable(cost)):
        fixed = ChargedBy(tier, action, cost)
        return lambda _: fixed

    def charged_by(scope: Scope) -> ChargedBy:
        return ChargedBy(
            tier(scope) if callable(tier) else tier,
            action(scope) if callable(action) else action,
            cost(scope) if callable(cost) else cost,
        )

    return charged_by


def _by_address(proxies: TrustedProxies) -> Callable[[Scope], Sequence[Identity]]:
    def identify(scope: Scope) -> Sequence[Identity]:
        return [proxies.identity(scope)]

    return identify

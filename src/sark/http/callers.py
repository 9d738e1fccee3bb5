"""From where a request comes, as its connection tells it; what its body says is another matter."""

from __future__ import annotations

from typing import NamedTuple, TypeVar

from msgspec.structs import replace
from starlette.requests import Request as HttpRequest

from sark.batch import BatchRequest
from sark.errors import InvalidRequestError
from sark.gateway import Answer, Request
from sark.sessions.session import MAX_USER_AGENT_BYTES

__all__ = ["Peer", "R", "ask_as_user", "told_to_user"]

R = TypeVar("R", Request, BatchRequest)


class Peer(NamedTuple):
    """Where a request comes from.

    Attributes:
        ip: Address of the client; None on a socket without addresses.
        user_agent: Its ``User-Agent``.
    """

    ip: str | None
    user_agent: str | None

    @classmethod
    def of(cls, request: HttpRequest, ip: str | None) -> Peer:
        """Look at a request from a client whose address was found."""
        user_agent = request.headers.get("user-agent")
        # No session begins with a longer one, so cutting it off lets nothing match.
        return cls(ip, user_agent and user_agent[: MAX_USER_AGENT_BYTES + 1])


def ask_as_user(asked: R, access_token: str, peer: Peer, *, may_name_context: bool) -> R:
    """Put what is known of a user in the place of what the user says.

    Args:
        asked: The request's body. ``ip`` and ``user_agent`` in it don't count.
        access_token: Its bearer token, which is the user's.
        peer: Where it comes from.
        may_name_context: Whether what the policy is told of circumstances may be the user's word.

    Raises:
        InvalidRequestError: The body has what only a trusted caller may say.
    """
    for name in ("access_token", "api_key_id"):
        if getattr(asked, name) is not None:
            reason = "only a trusted caller may name one; here the bearer token is the user's"
            raise InvalidRequestError(name, reason)
    if not may_name_context:
        _refuse_context(asked)
    return replace(asked, access_token=access_token, ip=peer.ip, user_agent=peer.user_agent)


def told_to_user(answer: Answer) -> Answer:
    """Leave out the limits in shadow mode, which an operator is trying and users aren't told of."""
    if not any(state.shadow for state in answer.limits):
        return answer
    return replace(answer, limits=tuple(state for state in answer.limits if not state.shadow))


def _refuse_context(asked: Request | BatchRequest) -> None:
    fields = (
        {"context": asked.context}
        if isinstance(asked, Request)
        else {f"questions[{n}].context": each.context for n, each in enumerate(asked.questions)}
    )
    for field, context in fields.items():
        if context:
            reason = "only a trusted caller may name circumstances here (SARK_USER_CONTEXT=false)"
            raise InvalidRequestError(field, reason)

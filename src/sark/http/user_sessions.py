"""Routes of one user's sessions: for trusted callers, and for the user's own access token.

Who begins sessions has to be able to end them, after a reset of a password for instance.
"""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from sark.admission import READ
from sark.errors import InvalidRequestError
from sark.http.problems import HttpError, Problem
from sark.http.service import ServiceOf
from sark.http.sessions import private_json
from sark.http.user_paths import user_session_of
from sark.sessions import Session
from sark.sessions.session import MAX_USER_ID_BYTES, check_text

__all__ = ["SessionList", "router"]

ALL_PATH = "/v1/users/{user_id:path}/sessions"
ONE_PATH = "/v1/users/{user_id:path}/sessions/{session_id}"
EXCEPT = "except"
_OWNER: dict[str, Any] = {"security": [{"bearer": []}, {"service": []}, {"user": []}]}

router = APIRouter(tags=["sessions"])


class SessionList(msgspec.Struct, frozen=True):
    """A user's sessions.

    Attributes:
        sessions: Those that are alive, the newest first.
    """

    sessions: list[Session]


# One function for both paths of a method: which ids a path names is read from it as it was sent.


@router.get(ALL_PATH, openapi_extra=_OWNER, summary="List a user's sessions")
@router.get(ONE_PATH, openapi_extra=_OWNER, summary="Tell one session of a user")
async def read(request: Request, service: ServiceOf) -> Response:
    """For trusted callers and the user."""
    user_id, session_id = user_session_of(request.scope["raw_path"])
    deadline = service.deadline
    await service.check_owner(request, user_id, action=READ, deadline=deadline)
    sessions = service.runtime.sessions
    if session_id is None:
        return private_json(SessionList([*await sessions.list(user_id, deadline=deadline)]))
    found = await sessions.get(user_id, session_id, deadline=deadline)
    if found is None:
        detail = "the user has no living session of this id"
        raise HttpError(Problem("urn:sark:problem:no-session", "No such session", 404, detail))
    return private_json(found)


@router.delete(ALL_PATH, openapi_extra=_OWNER, summary="End a user's sessions")
@router.delete(ONE_PATH, openapi_extra=_OWNER, summary="End one session of a user")
async def end(request: Request, service: ServiceOf) -> Response:
    """For trusted callers and the user."""
    user_id, session_id = user_session_of(request.scope["raw_path"])
    actor = await service.check_owner(request, user_id)
    spared = _spared(request, allowed=session_id is None)
    admission, ip = service.runtime.admission, service.peer(request).ip
    if session_id is None:
        ended = await admission.revoke_user(user_id, except_session=spared, by=actor, ip=ip)
    else:
        ended = await admission.revoke(user_id, session_id, by=actor, ip=ip)
    return private_json(ended)


def _spared(request: Request, *, allowed: bool) -> str | None:
    """Read which session is to stay.

    Raises:
        InvalidRequestError: The query is anything else: a misspelt one would end all of them.
    """
    given = request.query_params.multi_items()
    if not given:
        return None
    (name, value), *more = given
    if name != EXCEPT or more or not allowed:
        expected = f"expected {EXCEPT} once, or nothing" if allowed else "expected none"
        raise InvalidRequestError("query", f"got {name[:64]!r}, {expected}")
    return check_text(EXCEPT, value, most=MAX_USER_ID_BYTES)

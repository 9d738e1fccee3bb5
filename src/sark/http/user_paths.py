"""Paths that name a user, as they were sent: the decoded ones hide what is not UTF-8.

An id is percent-encoded; slashes in it may also stand as they are.
"""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

from sark.errors import InvalidRequestError
from sark.sessions.session import MAX_USER_ID_BYTES, check_text

__all__ = ["user_of", "user_session_of"]

_USERS, _SESSIONS = b"/v1/users/", b"/sessions"


def user_of(raw_path: bytes, suffix: bytes) -> str:
    """Take the id from ``/v1/users/{id}`` before a suffix.

    Raises:
        InvalidRequestError: It is no text.
    """
    path = raw_path.partition(b"?")[0]
    return _decoded("user_id", path.removeprefix(_USERS).removesuffix(suffix))


def user_session_of(raw_path: bytes) -> tuple[str, str | None]:
    """Take the ids from ``/v1/users/{id}/sessions`` and ``/v1/users/{id}/sessions/{session_id}``.

    A path that ends with ``/sessions`` names no session, whatever stands before.

    Raises:
        InvalidRequestError: One of them is no id.
    """
    path, session_id = raw_path.partition(b"?")[0], None
    if not path.endswith(_SESSIONS):
        path, _, encoded = path.rpartition(b"/")
        session_id = _checked("session_id", _decoded("session_id", encoded))
    return _checked("user_id", user_of(path, _SESSIONS)), session_id


def _checked(field: str, value: str) -> str:
    return check_text(field, value, most=MAX_USER_ID_BYTES)


def _decoded(field: str, encoded: bytes) -> str:
    try:
        return unquote_to_bytes(encoded).decode()
    except UnicodeDecodeError:
        raise InvalidRequestError(field, "is not valid UTF-8") from None

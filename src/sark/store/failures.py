"""What became of a failed exchange with Valkey: the driver's errors as ours.

The distinction that matters to callers is whether the command may have taken effect. Before the
first byte was handed to the socket nothing can have happened (``StoreUnavailableError``, safe to
retry); afterwards the outcome is unknown, and only idempotent commands may be sent again.
"""

from __future__ import annotations

from collections.abc import Callable

from valkey import exceptions as driver

from sark.errors import (
    ConnectionLostError,
    StoreCommandError,
    StoreError,
    StoreTimeoutError,
    StoreUnavailableError,
)

__all__ = ["DRIVER_ERRORS", "is_refusal", "translate"]

# What the driver raises, by the class that is looked for first. ``ResponseError`` and below are
# answers of the server; the rest are failures of the connection or of the protocol.
DRIVER_ERRORS: tuple[tuple[type[Exception], type[StoreError]], ...] = (
    (driver.AuthenticationError, StoreUnavailableError),
    (driver.AuthorizationError, StoreUnavailableError),
    (driver.BusyLoadingError, StoreUnavailableError),
    (driver.MaxConnectionsError, StoreUnavailableError),
    (driver.ConnectionError, ConnectionLostError),
    (driver.TimeoutError, StoreTimeoutError),
    (driver.InvalidResponse, ConnectionLostError),
    (driver.ResponseError, StoreCommandError),
    (driver.ValkeyError, StoreCommandError),
    (driver.ValkeyClusterException, StoreUnavailableError),
    (driver.ChildDeadlockedError, StoreUnavailableError),
    (TimeoutError, StoreTimeoutError),
    (OSError, ConnectionLostError),
)

_BEFORE_SENDING: dict[type[StoreError], Callable[[str], StoreError]] = {
    ConnectionLostError: StoreUnavailableError,
    StoreTimeoutError: StoreUnavailableError,
}


_REFUSALS = (
    driver.AuthenticationError,
    driver.AuthorizationError,
    driver.AuthenticationWrongNumberOfArgsError,
    driver.NoPermissionError,
)
# What an open guard repeats of the server's words.
_REFUSING_WORDS = (
    "invalid username-password",
    "WRONGPASS",
    "NOAUTH",
    "Authentication required",
    "NOPERM",
    "has no permissions",
    "without any password configured",
)


def is_refusal(error: StoreError) -> bool:
    """Whether the server refuses the password or the user, which no waiting heals."""
    if isinstance(error.__cause__, _REFUSALS):
        return True
    text = str(error)
    return any(words in text for words in _REFUSING_WORDS)


def translate(error: Exception, *, sent: bool, server: str) -> StoreError:
    """Turn a driver's error into the one of our tree.

    Args:
        error: What the driver raised.
        sent: Whether any part of a command had been handed to the socket.
        server: Address for the message, without credentials.
    """
    kind = next((ours for theirs, ours in DRIVER_ERRORS if isinstance(error, theirs)), None)
    if kind is None:
        raise error
    message = f"{server}: {str(error) or type(error).__name__}"
    return message_for(kind, message) if sent else _BEFORE_SENDING.get(kind, kind)(message)


def message_for(kind: type[StoreError], message: str) -> StoreError:
    """Build an error of ``kind``; a function, so that the types stay visible to the checker."""
    return kind(message)

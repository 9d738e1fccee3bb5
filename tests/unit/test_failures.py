"""Every error of the driver becomes one of ours; a new one that nobody mapped fails here."""

from __future__ import annotations

import inspect

import pytest
from valkey import exceptions as driver

from sark.errors import (
    ConnectionLostError,
    StoreCommandError,
    StoreError,
    StoreTimeoutError,
    StoreUnavailableError,
)
from sark.store.failures import DRIVER_ERRORS, translate

SERVER = "valkey.example:6379"
DRIVER_CLASSES = {
    name: kind
    for name, kind in vars(driver).items()
    if inspect.isclass(kind) and issubclass(kind, Exception)
}

# Written out one by one: a class that the driver gains is missing here, whatever it inherits from,
# and somebody has to decide what it means. First what it is before sending, then after.
UNAVAILABLE = (StoreUnavailableError, StoreUnavailableError)
LOST = (StoreUnavailableError, ConnectionLostError)
TIMED_OUT = (StoreUnavailableError, StoreTimeoutError)
REFUSED = (StoreCommandError, StoreCommandError)
EXPECTED: dict[str, tuple[type[StoreError], type[StoreError]]] = {
    "AskError": REFUSED,
    "AuthenticationError": UNAVAILABLE,
    "AuthenticationWrongNumberOfArgsError": REFUSED,
    "AuthorizationError": UNAVAILABLE,
    "BusyLoadingError": UNAVAILABLE,
    "ChildDeadlockedError": UNAVAILABLE,
    "ClusterCrossSlotError": REFUSED,
    "ClusterDownError": REFUSED,
    "ClusterError": REFUSED,
    "ConnectionError": LOST,
    "DataError": REFUSED,
    "ExecAbortError": REFUSED,
    "InvalidResponse": LOST,
    "LockError": REFUSED,
    "LockNotOwnedError": REFUSED,
    "MasterDownError": REFUSED,
    "MaxConnectionsError": UNAVAILABLE,
    "ModuleError": REFUSED,
    "MovedError": REFUSED,
    "NoPermissionError": REFUSED,
    "NoScriptError": REFUSED,
    "OutOfMemoryError": REFUSED,
    "PubSubError": REFUSED,
    "ReadOnlyError": REFUSED,
    "ResponseError": REFUSED,
    "SlotNotCoveredError": UNAVAILABLE,
    "TimeoutError": TIMED_OUT,
    "TryAgainError": REFUSED,
    "ValkeyClusterException": UNAVAILABLE,
    "ValkeyError": REFUSED,
    "WatchError": REFUSED,
}


def make(kind: type[Exception]) -> Exception:
    return kind("12182 10.0.0.1:6379") if issubclass(kind, driver.AskError) else kind("no luck")


def test_somebody_thought_of_every_class_of_the_driver() -> None:
    assert DRIVER_CLASSES.keys() == EXPECTED.keys()


@pytest.mark.parametrize("sent", [False, True], ids=["unsent", "sent"])
@pytest.mark.parametrize("name", EXPECTED)
def test_driver_errors_become_ours(name: str, sent: bool) -> None:
    failure = translate(make(DRIVER_CLASSES[name]), sent=sent, server=SERVER)
    assert type(failure) is EXPECTED[name][sent]
    assert str(failure).startswith(f"{SERVER}: ")
    assert len(str(failure)) > len(f"{SERVER}: ")


@pytest.mark.parametrize(
    ("error", "unsent", "sent"),
    [
        (TimeoutError(), StoreUnavailableError, StoreTimeoutError),
        (ConnectionResetError(104, "reset"), StoreUnavailableError, ConnectionLostError),
        (BrokenPipeError(), StoreUnavailableError, ConnectionLostError),
        (OSError(113, "no route to host"), StoreUnavailableError, ConnectionLostError),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_errors_of_the_system_become_ours(
    error: Exception, unsent: type[StoreError], sent: type[StoreError]
) -> None:
    assert type(translate(error, sent=False, server=SERVER)) is unsent
    assert type(translate(error, sent=True, server=SERVER)) is sent


@pytest.mark.parametrize("sent", [False, True], ids=["unsent", "sent"])
def test_nothing_that_may_have_happened_looks_as_if_it_had_not(sent: bool) -> None:
    unknown = (driver.ConnectionError("x"), driver.TimeoutError("x"), TimeoutError(), OSError("x"))
    for error in unknown:
        failure = translate(error, sent=sent, server=SERVER)
        assert isinstance(failure, StoreUnavailableError) is not sent


def test_mistakes_of_the_program_stay_what_they_are() -> None:
    with pytest.raises(ZeroDivisionError):
        translate(ZeroDivisionError("x"), sent=True, server=SERVER)


def test_the_narrower_class_is_looked_for_first() -> None:
    for position, (kind, _) in enumerate(DRIVER_ERRORS):
        shadowed = [k for k, _ in DRIVER_ERRORS[position + 1 :] if issubclass(k, kind)]
        assert shadowed == [], f"{kind.__name__} hides {shadowed}"

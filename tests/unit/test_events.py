"""The hub: who subscribed is told, in order, and can break nothing."""

from __future__ import annotations

import logging

import msgspec
import pytest

from sark import events
from sark.events import Event, Hub, LimitRefused, ScriptLoaded

REFUSED = LimitRefused("user")
LOADED = ScriptLoaded("state", "s")


def test_handlers_are_told_in_the_order_of_their_subscription() -> None:
    hub, told = Hub(), list[str]()
    hub.on(LimitRefused, lambda event: told.append(f"first {event.kind}"))
    hub.on(LimitRefused, lambda event: told.append(f"second {event.kind}"))
    hub.emit(REFUSED)
    assert told == ["first user", "second user"]


def test_handlers_are_told_of_their_type_only() -> None:
    hub = Hub()
    told = list[Event]()
    hub.on(LimitRefused, told.append)
    hub.on(Event, told.append)
    hub.emit(LOADED)
    assert told == []
    hub.emit(REFUSED)
    assert told == [REFUSED]


def test_an_event_that_nobody_wants_is_fine() -> None:
    Hub().emit(REFUSED)


def test_a_handler_that_raises_breaks_neither_the_caller_nor_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    hub, told = Hub(), list[Event]()

    def broken(event: LimitRefused) -> None:
        raise ValueError(event.kind)

    hub.on(LimitRefused, broken)
    hub.on(LimitRefused, told.append)
    with caplog.at_level(logging.ERROR, "sark.events"):
        hub.emit(REFUSED)
        hub.emit(REFUSED)
    assert told == [REFUSED, REFUSED]
    assert hub.handler_failures == 2
    assert [record.getMessage() for record in caplog.records] == [
        "a handler of LimitRefused failed"
    ] * 2


def test_a_handler_may_subscribe_another_while_it_is_told() -> None:
    hub, told = Hub(), list[Event]()
    hub.on(LimitRefused, lambda _: hub.on(LimitRefused, told.append))
    hub.emit(REFUSED)
    assert told == []
    hub.emit(REFUSED)
    assert told == [REFUSED]


def test_hubs_are_independent() -> None:
    one, other, told = Hub(), Hub(), list[Event]()
    one.on(LimitRefused, told.append)
    other.emit(REFUSED)
    assert told == []


def test_events_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        REFUSED.kind = "ip"  # type: ignore[misc]


def test_every_event_is_public_and_of_the_base() -> None:
    defined = {
        name
        for name, value in vars(events).items()
        if isinstance(value, type) and issubclass(value, msgspec.Struct) and name != "E"
    }
    assert defined <= set(events.__all__)
    assert all(issubclass(getattr(events, name), Event) for name in defined)

"""The base of all events, and what delivers them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

__all__ = ["Event", "Hub"]


class Event(msgspec.Struct, frozen=True):
    """Base of all events."""


E = TypeVar("E", bound=Event)


_log = logging.getLogger("sark.events")


class Hub:
    """Delivers events to the handlers that subscribed to their type.

    A handler that raises never breaks the request it observes: its exception is logged and
    counted in ``handler_failures``.
    """

    __slots__ = ("_handlers", "handler_failures")

    def __init__(self) -> None:
        # Keyed by exact type, so each handler only ever gets the type that it subscribed to.
        self._handlers: dict[type[Event], tuple[Callable[[Any], None], ...]] = {}
        self.handler_failures = 0

    def on(self, kind: type[E], handler: Callable[[E], None]) -> None:
        """Call ``handler`` for every later event of exactly this type."""
        known = self._handlers.get(kind, ())
        self._handlers[kind] = (*known, handler)

    def emit(self, event: Event) -> None:
        """Deliver ``event`` to its handlers, in the order of their subscription."""
        for handler in self._handlers.get(type(event), ()):
            try:
                handler(event)
            except Exception:  # noqa: BLE001 - an observer must not break what it observes
                self.handler_failures += 1
                _log.exception("a handler of %s failed", type(event).__name__)

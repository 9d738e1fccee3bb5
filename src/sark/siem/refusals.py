"""Auditing refused requests without letting a flood of them fill the queue.

The first refusal of an identity in a window is an event of its own, accepted before its answer
leaves. The repeats are counted on the server, and when the window has ended one closing event
tells how many there were. The counts live in Valkey, so they are shared by all processes and
survive them; whichever process looks first closes a window, in one script, exactly once.
"""

from __future__ import annotations

import asyncio
import contextlib
from datetime import datetime

import msgspec

from sark.errors import AuditError, StoreError
from sark.events import AuditRefused
from sark.siem.event import AuditEvent, ClosingEvent, encode_event, new_event_id, now
from sark.siem.queue import APPEND_FRAGMENT, QueueBounds, queue_full
from sark.store import Argument, Store, load_script

__all__ = ["Refusals"]

CLOSE_BATCH = 100

_FRAGMENTS = (("sark.store", "clock.lua"), APPEND_FRAGMENT, ("sark.siem", "refusals.lua"))
_REFUSE = load_script("siem.refuse", *_FRAGMENTS, ("sark.siem", "refuse.lua"))
_CLOSE = load_script("siem.close_refusals", *_FRAGMENTS, ("sark.siem", "close_refusals.lua"))


class _FirstId(msgspec.Struct):
    first_id: str


class Refusals:
    """Records refusals.

    Args:
        store: Where the records and the queue live.
        bounds: How much the queue may hold.
    """

    def __init__(self, store: Store, bounds: QueueBounds) -> None:
        self._store = store
        self._bounds = bounds
        keys = store.keys
        self._keys = [
            keys.siem_refusals,
            keys.siem_refusal_counts,
            keys.siem_refusals_due,
            keys.siem().queue,
            keys.siem().account,
        ]

    async def record(
        self, name: str, event: AuditEvent, *, identity: str, seconds_left: float, deadline: float
    ) -> str:
        """Record a refusal: one round trip; returns when it has been accepted.

        Args:
            name: Names the identity and window; the same for all its refusals.
            event: The event, should this be the first.
            identity: Who was refused, as ``kind:id``.
            seconds_left: Seconds until the window ends.
            deadline: On the event loop's clock, in seconds.

        Returns:
            The id of the event under which this refusal is recorded.

        Raises:
            QueueFullError: There is no room for the event.
            AuditError: Valkey did not accept it.
        """
        closing = ClosingEvent(
            first_id=event.id,
            identity=identity,
            reason=event.reason,
            policy=event.policy,
            user_id=event.user_id,
        )
        arguments: tuple[Argument, ...] = (
            name,
            round(seconds_left * 1000),
            encode_event(event),
            encode_event(closing)[:-1],
            new_event_id(),
            _iso(event.time),
            self._bounds.events,
            self._bounds.bytes,
        )
        try:
            reply = await self._store.state.run(_REFUSE, self._keys, arguments, deadline=deadline)
        except StoreError as error:
            self._store.hub.emit(AuditRefused(1, "unavailable"))
            raise AuditError(f"the audit event was not accepted: {error}") from error
        count, record = reply.value
        if count == 0:
            self._store.hub.emit(AuditRefused(1, "full"))
            raise queue_full()
        return msgspec.json.decode(record + b"}", type=_FirstId).first_id

    async def close_due(self) -> int:
        """Append the closing events of windows that have ended; returns how many were closed.

        Raises:
            StoreError: The server did not answer.
        """
        total = 0
        while True:
            ids = [new_event_id() for _ in range(CLOSE_BATCH)]
            arguments: list[Argument] = [_iso(now()), self._bounds.events, self._bounds.bytes, *ids]
            closed: int = (await self._store.state.run(_CLOSE, self._keys, arguments)).value
            total += closed
            if closed < CLOSE_BATCH:
                return total

    async def close_due_forever(self, *, interval: float) -> None:
        """Close windows as they end, until cancelled.

        A server that does not answer is asked again at the next turn; its silence is reported by
        the store's own events.

        Args:
            interval: Seconds between two looks.
        """
        while True:
            await asyncio.sleep(interval)
            with contextlib.suppress(StoreError):
                await self.close_due()


def _iso(time: datetime) -> str:
    return time.isoformat().replace("+00:00", "Z")

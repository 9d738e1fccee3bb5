"""Leases on a sink's events: a worker takes some, sends them, and tells what became of each.

A lease moves events from the head of the queue to a list of the worker's own, until an expiry by
the server's clock. It has a fencing token: once it has expired and was reaped, its worker can
change nothing any more, however late it wakes up. Whatever is done is one script that moves the
events and books them, so that the account agrees at every moment.

An event is only ever in one place. What returns goes to the head, in its order, and there is always
room for it: the queue's bound counts what is in flight. An event that outlives leases may be what
kills its workers, so after two of them it is leased alone, and in the end becomes a dead letter
without taking its neighbours along.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import msgspec

from sark.errors import DeadLettersFullError, LeaseHeldError, LeaseLostError
from sark.events import DeadLettered, LeaseExpired
from sark.siem.account import SinkStatus, read_status
from sark.siem.bounds import QueueBounds
from sark.siem.event import iso, now
from sark.siem.outcomes import DELIVERED, KEEP, RETURN, Bad, Lease, Outcome, letter_of
from sark.store import Argument, Script, Store, load_script

__all__ = ["DELIVERED", "KEEP", "RETURN", "Bad", "Lease", "Outcome", "SinkQueue"]

MAX_LEASED = 5000
MAX_LISTED = 1000
# An event that has outlived so many leases is leased alone.
ALONE_AFTER = 2
EXPIRIES_TTL_SECONDS = 7 * 86_400

_CLOCK = ("sark.store", "clock.lua")
_FRAGMENTS = ("lists.lua", "append.lua", "letters.lua", "lease_record.lua")


def _load(name: str) -> Script:
    files = [("sark.siem", file) for file in (*_FRAGMENTS, f"{name}.lua")]
    return load_script(f"siem.{name}", _CLOCK, *files, when_full=True)


_LEASE, _RENEW, _RESUME, _ACKNOWLEDGE = map(_load, ("lease", "renew", "resume", "acknowledge"))
_SETTLE, _REAP, _REPLAY, _PURGE, _STATUS = map(
    _load, ("settle", "reap", "replay", "purge", "status")
)


class SinkQueue:
    """One sink's events, as its workers see them. Safe to share between tasks.

    Dead letters and expired leases are reported to the store's hub, by ``DeadLettered`` and
    ``LeaseExpired``.

    Args:
        store: Where the queue lives.
        sink: Whose queue.
        bounds: How much the queue may hold, and how much its dead letters may.
        lease: Seconds after which a lease ends that is not renewed.
        most_expiries: How many leases an event may outlive before it becomes a dead letter.
    """

    def __init__(
        self, store: Store, sink: str, bounds: QueueBounds, *, lease: float, most_expiries: int
    ) -> None:
        self._store = store
        self.sink = sink
        self._bounds = bounds
        self._lease_ms = max(round(lease * 1000), 1)
        self._most_expiries = most_expiries
        self._keys = store.keys.siem(sink)

    async def lease(self, worker: str, *, events: int, size: int) -> Lease | None:
        """Take events from the head of the queue: one round trip.

        Args:
            worker: Who asks; one worker holds at most one lease of a sink.
            events: Most events, at most 5,000.
            size: Most bytes of their JSON; a lone event may be larger.

        Returns:
            The lease, or None when nothing is queued.

        Raises:
            DeadLettersFullError: There is no room for dead letters, so nothing is leased.
            LeaseHeldError: The worker holds one already; ``resume`` takes it over.
            StoreError: The server did not answer; whether the events are leased may be unknown.
        """
        _check_count(events, MAX_LEASED)
        bounds = self._bounds
        reply = await self._run(
            _LEASE,
            self._all_keys(worker),
            [worker, events, size, self._lease_ms, bounds.events, bounds.bytes, ALONE_AFTER],
        )
        if reply == b"held":
            raise LeaseHeldError(f"the worker {worker} already holds events of {self.sink}")
        if reply == b"full":
            raise DeadLettersFullError(
                f"the dead letters of {self.sink} are at their bound: replay or purge them, or "
                "raise SARK_SIEM_MAX_EVENTS or SARK_SIEM_MAX_BYTES"
            )
        return self._leased(worker, reply)

    async def resume(self, worker: str) -> Lease | None:
        """Take over the lease that a worker of this name still holds, under a new token.

        For a worker that did not get the answer to ``lease``. None when it holds none.

        Raises:
            StoreError: The server did not answer.
        """
        keys = [self._keys.leases, self._keys.account, self._keys.inflight(worker)]
        return self._leased(worker, await self._run(_RESUME, keys, [worker, self._lease_ms]))

    async def renew(self, lease: Lease) -> None:
        """Let a lease last for its full time from now on.

        Raises:
            LeaseLostError: It has ended.
            StoreError: The server did not answer.
        """
        arguments: list[Argument] = [lease.worker, lease.token, self._lease_ms]
        if not await self._run(_RENEW, [self._keys.leases], arguments):
            raise _lost(lease)

    async def acknowledge(self, lease: Lease) -> None:
        """Book all events of a lease as delivered, and end it. Errors as in ``renew``."""
        keys = self._keys
        named = [keys.leases, keys.account, keys.expiries, keys.inflight(lease.worker)]
        if not await self._run(_ACKNOWLEDGE, named, [lease.worker, lease.token]):
            raise _lost(lease)

    async def settle(self, lease: Lease, outcomes: Sequence[Outcome]) -> Lease | None:
        """Tell what became of each event.

        A bad event for which the dead letters have no room returns to the queue instead.

        Args:
            lease: The lease.
            outcomes: One per event, in the lease's order.

        Returns:
            The lease of what is kept, under the same token; None when nothing is, and it has ended.

        Raises:
            LeaseLostError: It has ended before.
            StoreError: The server did not answer.
        """
        if len(outcomes) != len(lease.events):
            raise ValueError(f"got {len(outcomes)} outcomes for {len(lease.events)} events")
        letters = "".join(map(letter_of, outcomes))
        bad = [each.reason for each in outcomes if isinstance(each, Bad)]
        time = iso(now())
        buried: int = await self._run(
            _SETTLE,
            self._all_keys(lease.worker),
            [
                lease.worker,
                lease.token,
                self._bounds.events,
                self._bounds.bytes,
                letters,
                *(_letter_head(reason, "rejected", time) for reason in bad),
            ],
        )
        if buried < 0:
            raise _lost(lease)
        if buried:
            self._store.hub.emit(DeadLettered(self.sink, buried, "rejected", bad[0]))
        kept = tuple(e for e, each in zip(lease.events, outcomes, strict=True) if each is KEEP)
        return replace(lease, events=kept, bytes=sum(map(len, kept))) if kept else None

    async def give_back(self, lease: Lease) -> None:
        """Return all events to the head of the queue, in order. Errors as in ``renew``."""
        await self.settle(lease, [RETURN] * len(lease.events))

    async def reap(self) -> int:
        """End the leases that have expired; returns how many events went back or were dead letters.

        One round trip for the leases, and one for each of them.

        Raises:
            StoreError: The server did not answer.
        """
        records: dict[bytes, bytes] = _pairs(
            await self._store.state.execute("HGETALL", self._keys.leases, idempotent=True)
        )
        tokens = {worker.decode(): int(record.split()[0]) for worker, record in records.items()}
        # The newest first, so that the oldest events end up at the head.
        newest_first = sorted(tokens, key=tokens.__getitem__, reverse=True)
        return sum([await self._reap(worker, tokens[worker]) for worker in newest_first])

    async def _reap(self, worker: str, token: int) -> int:
        reason = f"outlived {self._most_expiries} leases"
        head = _letter_head(reason, "expired", iso(now()))
        reply = await self._run(
            _REAP,
            self._all_keys(worker),
            [
                worker,
                token,
                self._bounds.events,
                self._bounds.bytes,
                self._most_expiries,
                head,
                EXPIRIES_TTL_SECONDS,
            ],
        )
        if not reply:
            return 0
        returned, buried = reply
        if returned:
            self._store.hub.emit(LeaseExpired(self.sink, returned))
        if buried:
            self._store.hub.emit(DeadLettered(self.sink, buried, "expired", reason))
        return int(returned + buried)

    async def peek(self, count: int) -> list[bytes]:
        """Read the oldest events of the queue, without taking them; at most 1,000."""
        return await self._oldest(self._keys.queue, count)

    async def newest(self, count: int) -> list[bytes]:
        """Read the newest events of the queue, oldest of them first; at most 1,000."""
        _check_count(count, MAX_LISTED)
        entries: list[bytes] = await self._store.state.execute(
            "LRANGE", self._keys.queue, -count, -1, idempotent=True
        )
        return entries

    async def failed(self, count: int) -> list[bytes]:
        """Read the oldest dead letters, at most 1,000."""
        return await self._oldest(self._keys.failed, count)

    async def replay(self, count: int) -> int:
        """Move the oldest dead letters to the tail of the queue, ids kept, as far as it has room.

        Args:
            count: At most so many, and at most 1,000 in one call.

        Returns:
            How many were moved.

        Raises:
            StoreError: The server did not answer.
        """
        _check_count(count, MAX_LISTED)
        keys = [self._keys.queue, self._keys.failed, self._keys.account]
        moved = await self._run(_REPLAY, keys, [count, self._bounds.events, self._bounds.bytes])
        return int(moved)

    async def purge(self, what: Literal["queue", "failed"], count: int) -> int:
        """Drop the oldest events or dead letters, at most 1,000 in one call; returns how many.

        Raises:
            StoreError: The server did not answer.
        """
        _check_count(count, MAX_LISTED)
        listed = self._keys.queue if what == "queue" else self._keys.failed
        line = "queued" if what == "queue" else "failed"
        return int(await self._run(_PURGE, [listed, self._keys.account], [count, line]))

    async def status(self, *, deadline: float | None = None) -> SinkStatus:
        """Read the account: one round trip.

        Raises:
            StoreError: The server did not answer.
        """
        keys = self._keys
        named = [keys.queue, keys.failed, keys.leases, keys.account]
        reply = await self._store.state.run(_STATUS, named, deadline=deadline, idempotent=True)
        return read_status(self.sink, reply.value)

    def _all_keys(self, worker: str) -> list[str]:
        keys = self._keys
        listed = (keys.queue, keys.failed, keys.leases, keys.account, keys.expiries)
        return [*listed, keys.inflight(worker)]

    def _leased(self, worker: str, reply: Sequence[Any]) -> Lease | None:
        if not reply:
            return None
        token, events, *behind = reply
        size = sum(map(len, events))
        return Lease(self.sink, worker, int(token), tuple(events), size, *behind)

    async def _oldest(self, key: str, count: int) -> list[bytes]:
        _check_count(count, MAX_LISTED)
        entries: list[bytes] = await self._store.state.execute(
            "LRANGE", key, 0, count - 1, idempotent=True
        )
        return entries

    async def _run(self, script: Script, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        return (await self._store.state.run(script, keys, arguments)).value


def _letter_head(reason: str, kind: Literal["rejected", "expired"], time: str) -> bytes:
    """Spell a dead letter up to its event, which the script puts behind it."""
    known = {"reason": reason, "kind": kind, "time": time}
    return msgspec.json.encode(known)[:-1] + b',"event":'


def _lost(lease: Lease) -> LeaseLostError:
    return LeaseLostError(
        f"the lease of {lease.worker} on {len(lease.events)} events of {lease.sink} has ended"
    )


def _check_count(count: int, most: int) -> None:
    if not 1 <= count <= most:
        raise ValueError(f"got {count}, expected 1 to {most}")


def _pairs(reply: Any) -> dict[bytes, bytes]:
    """Read a hash as either protocol gives it."""
    if isinstance(reply, dict):
        return reply
    return dict(zip(reply[::2], reply[1::2], strict=True))

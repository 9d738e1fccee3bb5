"""The most asked questions, sampled: what a cache is warmed from.

One sorted set, shared by all processes, holds questions as the policies see them, by a count of
samples that halves every hour. Each process counts one answered question in ``SARK_HOT_SAMPLE`` on
its own and adds its counts every few seconds, in one call whose work is bounded. The log is only
useful data: it may be lost at any time, and whatever goes wrong with it disturbs no request.

Never recorded are actions of high sensitivity, decisions that may not be kept, and questions of
more than 2 KiB.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Sequence
from heapq import nlargest
from typing import Any

import msgspec

from sark.errors import InvalidRequestError, StoreError
from sark.policy.policy_file import PolicyFile
from sark.policy.question import JsonValue, Question
from sark.policy.sensitivity import Sensitivity
from sark.store import Argument, Store, load_script

__all__ = ["HotRequests", "recall"]

MAX_MEMBER_BYTES = 2048
MAX_COUNTED = 2000  # different questions of one process between two flushes
MAX_FLUSHED = 200  # of them, the most asked
FLUSH_INTERVAL_SECONDS = 5.0
FLUSH_TIMEOUT_SECONDS = 1.0

LIFE_MS = 7 * 86_400_000
DECAY_INTERVAL_MS = 60_000
HALF_LIFE_MS = 3_600_000
# A question that was sampled once is forgotten after ten half-lives in which others were asked.
FORGOTTEN = 0.001

_ADD = load_script("policy.hot_requests", ("sark.policy", "hot_requests.lua"))


class _Member(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A question in the log."""

    policy: str
    user_id: str
    action: str
    resource: str
    context: dict[str, Any]


_decode = msgspec.json.Decoder(_Member).decode


class HotRequests:
    """Counts questions in this process, and adds the counts to the log.

    Args:
        store: Where the log is (``cache`` role).
        every: One in so many answered questions is counted; 0: none.
        keep: Most questions in the log.
    """

    def __init__(self, store: Store, *, every: int, keep: int) -> None:
        self._store = store
        self._every = every
        self._keep = keep
        # Counted down; what starts at 0 never comes to it.
        self.left = self._distance() if every else 0
        """Questions until the next one that ``sample`` is to count."""
        self._counts: dict[bytes, int] = {}

    def note(self, question: Question, rules: PolicyFile) -> None:
        """Hear that a question was answered with a decision that may be kept; no I/O.

        Args:
            question: What was asked.
            rules: How sensitive actions are.
        """
        self.left -= 1
        if not self.left:
            self.sample(question, rules)

    def sample(self, question: Question, rules: PolicyFile) -> None:
        """Count a question, and draw when to count the next one; see ``note``."""
        self.left = self._distance()
        if rules.sensitivity(question.action) is Sensitivity.HIGH:
            return
        member, counts = question.text, self._counts
        if member in counts:
            counts[member] += 1
        elif len(counts) < MAX_COUNTED and len(member) <= MAX_MEMBER_BYTES:
            counts[member] = 1

    def _distance(self) -> int:
        """Draw when to sample next; a fixed distance would follow any rhythm of the callers."""
        return 1 + int(random.random() * (2 * self._every - 1))  # noqa: S311 - not cryptography

    async def flush(self) -> None:
        """Add the counts of this process to the log.

        What does not fit into one call, and what a failed call carried, is dropped.
        """
        counts, self._counts = self._counts, {}
        if not counts:
            return
        arguments: list[Argument] = [
            self._keep,
            LIFE_MS,
            DECAY_INTERVAL_MS,
            HALF_LIFE_MS,
            FORGOTTEN,
        ]
        for member, count in nlargest(MAX_FLUSHED, counts.items(), key=lambda item: item[1]):
            arguments += (count, member)
        key = self._store.keys.policy_hot_requests
        deadline = asyncio.get_running_loop().time() + FLUSH_TIMEOUT_SECONDS
        # A failure is reported as a round trip that failed.
        with contextlib.suppress(StoreError):
            await self._store.cache.run(_ADD, [key], arguments, deadline=deadline)

    async def flush_forever(self, *, interval: float = FLUSH_INTERVAL_SECONDS) -> None:
        """Flush every ``interval`` seconds until cancelled."""
        while True:
            await asyncio.sleep(interval)
            await self.flush()

    async def read(self, limit: int | None = None) -> list[bytes]:
        """Read the log, the most asked first; see ``recall``.

        Args:
            limit: Most questions to read; None for all.

        Raises:
            StoreError: The ``cache`` server did not answer.
        """
        last = (self._keep if limit is None else min(limit, self._keep)) - 1
        if last < 0:
            return []
        key = self._store.keys.policy_hot_requests
        members: list[bytes] = await self._store.cache.execute(
            "ZRANGE", key, 0, last, "REV", idempotent=True
        )
        return members


def recall(member: bytes, rules: PolicyFile, policies: Sequence[str]) -> Question:
    """Read a question of the log.

    It is cut again as the policy file says, which changes nothing unless the file has changed
    since: what a policy no longer sees must not reach it by way of the log either.

    Args:
        member: As ``HotRequests.read`` returns it: a question's text.
        rules: What each policy sees of a request.
        policies: The names that are served.

    Raises:
        InvalidRequestError: It is no question, or one to another policy.
    """
    try:
        read = _decode(member)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequestError("", f"is no question: {error}") from None
    if read.policy not in policies:
        raise InvalidRequestError("policy", f"got {read.policy[:64]!r}, which is not served")
    ip, api_key_id = (_text(read.context.get(name)) for name in ("ip", "api_key_id"))
    seen = rules.project(read.policy, read.context, ip, api_key_id)
    return Question.ask(read.policy, read.user_id, read.action, read.resource, seen)


def _text(value: JsonValue) -> str | None:
    return value if isinstance(value, str) else None

"""The log of the most asked questions, as several processes write it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from sark.policy.hot import HotRequests
from sark.policy.policy_file import PolicyFile
from tests.support.gateways import Meeting, open_store, question


@dataclass(frozen=True)
class CountWork:
    """Counts one shared question and some of its own, flush by flush; tells how many it counted."""

    meeting: Meeting
    flushes: int
    keep: int

    def __call__(self, number: int) -> int:
        self.meeting.join()
        return asyncio.run(self._run(number))

    async def _run(self, number: int) -> int:
        rules, counted = PolicyFile(), 0
        async with open_store(self.meeting.url) as store:
            hot = HotRequests(store, every=1, keep=self.keep)
            for flush in range(self.flushes):
                for _ in range(10):
                    hot.note(question("shared"), rules)
                hot.note(question(f"process-{number}-{flush}"), rules)
                await hot.flush()
                counted += 10
        return counted

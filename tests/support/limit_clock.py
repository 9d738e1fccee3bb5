"""The limiter's scripts with a clock that a test sets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import valkey

from sark.ratelimit import Limit
from sark.ratelimit.limits import CHARGE_FRAGMENTS, PLAIN_FRAGMENTS
from sark.ratelimit.rules import Applied
from sark.store import load_script

SECOND = 1_000_000
START = 4_000_000_000 * SECOND
"""Ahead of the true time, so that the server itself lets no key expire."""

_CLOCK = "local function now_us() return tonumber(server.call('GET', 'test:clock')) end\n"
_MAIN = ("sark.ratelimit", "charge_main.lua")
_CHARGE = _CLOCK + load_script("", *CHARGE_FRAGMENTS, _MAIN).text
_PLAIN = _CLOCK + load_script("", *PLAIN_FRAGMENTS, _MAIN).text
_REFUND = _CLOCK + load_script("", ("sark.ratelimit", "refund.lua")).text

Charged = tuple[str, Limit, int]
"""Key, limit and cost."""


class Clocked:
    """Charges at times that the test chooses."""

    def __init__(self, client: valkey.Valkey) -> None:
        self.client = client
        self._charge: Any = client.script_load(_CHARGE)
        self._plain: Any = client.script_load(_PLAIN)
        self._refund: Any = client.script_load(_REFUND)

    def charge(self, now: int, charged: Sequence[Charged], letters: str = "") -> Any:
        applied = [Applied("user", limit, "user") for _, limit, _ in charged]
        arguments: list[Any] = [letters or "".join(each.letter for each in applied)]
        for each, (_, _, cost) in zip(applied, charged, strict=True):
            arguments += each.arguments(cost)
        return self._run(self._charge, now, [key for key, _, _ in charged], arguments)

    def plain(self, now: int, charged: Sequence[Charged]) -> Any:
        """Charge by the script for fixed windows; all cost what the first one does."""
        arguments: list[Any] = [charged[0][2]]
        for _, limit, _ in charged:
            arguments += limit.requests, limit.window_seconds
        return self._run(self._plain, now, [key for key, _, _ in charged], arguments)

    def refund(self, now: int, charged: Charged, reply: Sequence[int]) -> Any:
        key, limit, cost = charged
        letter = Applied("user", limit, "user").letter
        arguments = [letter, reply[1], cost, limit.requests, limit.window_seconds, reply[-1]]
        return self._run(self._refund, now, [key], arguments)

    def _run(self, sha: str, now: int, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        self.client.set("test:clock", now, ex=600)
        return self.client.evalsha(sha, len(keys), *keys, *arguments)

"""Fixed-window rate limits for the identities of a request, charged together.

A request names up to three identities: its user, its ip address and its api key. Each has a
counter of its own; all are charged by one script, and a request that one of them refuses charges
none. The window begins with the first request counted in it and is never extended, so a client
that keeps below its limit is never refused, and one that retries while refused is not punished
for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import ip_address

from sark.errors import InvalidRequestError
from sark.keyspace import Keyspace
from sark.ratelimit.limit import Charge, Identity, Limit, LimitState
from sark.store import Store, load_script

__all__ = ["RateLimiter", "canonical_ip"]

CHARGE_FRAGMENT = ("sark.ratelimit", "charge.lua")
_CHARGE = load_script("ratelimit.charge", CHARGE_FRAGMENT, ("sark.ratelimit", "charge_main.lua"))


@lru_cache(maxsize=8192)
def canonical_ip(text: str) -> str:
    """Spell an ip address in its one canonical form.

    An IPv4 address that is mapped into IPv6 is the IPv4 address. A zone (``%eth0``) is refused:
    it is free text, by which one address would have as many counters as it likes.

    Raises:
        InvalidRequestError: It is none.
    """
    try:
        address = None if "%" in text else ip_address(text)
    except ValueError:
        address = None
    if address is None:
        raise InvalidRequestError("ip", "got no IPv4 or IPv6 address")
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


class RateLimiter:
    """Charges requests against one limit per identity.

    Args:
        store: Where the counters live.
        limit: The limit of each identity; None switches limits off.
    """

    def __init__(self, store: Store, limit: Limit | None) -> None:
        self._store = store
        self._limit = limit

    @property
    def most_at_once(self) -> int | None:
        """Most requests that can be charged together; None without limits."""
        return None if self._limit is None else self._limit.requests

    def identities(
        self, user_id: str, ip: str | None, api_key_id: str | None
    ) -> tuple[Identity, ...]:
        """List the identities of a request that are limited.

        Raises:
            InvalidRequestError: ``ip`` is no address.
        """
        found: list[Identity] = [("user", user_id)]
        if ip is not None:
            found.append(("ip", canonical_ip(ip)))
        if api_key_id is not None:
            found.append(("apikey", api_key_id))
        return tuple(found) if self._limit is not None else ()

    def keys(self, identities: Sequence[Identity]) -> list[str]:
        """Name the identities' counters."""
        if self._limit is None:
            return []
        keys: Keyspace = self._store.keys
        window = self._limit.window_seconds
        return [keys.ratelimit(kind, identity, window) for kind, identity in identities]

    def arguments(self, identities: Sequence[Identity], *, cost: int = 1) -> tuple[int, ...]:
        """Spell a cost and the limits as the script takes them."""
        if self._limit is None:
            return (cost,)
        limit = (self._limit.requests, self._limit.window_seconds * 1000)
        return (cost, *(limit * len(identities)))

    def read(self, identities: Sequence[Identity], reply: list[int], *, cost: int = 1) -> Charge:
        """Interpret the script's reply; no I/O."""
        limit = self._limit
        if limit is None:
            return Charge(admitted=True, states=())
        states = tuple(
            LimitState(
                kind,
                limit.requests,
                max(0, limit.requests - used),
                -(-left // 1000),
                limit.window_seconds,
                kind,
            )
            for (kind, _), used, left in zip(identities, reply[1::2], reply[2::2], strict=True)
        )
        if reply[0]:
            return Charge(admitted=True, states=states)
        full = [i for i, state in enumerate(states) if state.remaining < cost]
        wait = max(states[i].reset for i in full)
        first = full[0]
        return Charge(
            admitted=False,
            states=states,
            refused=identities[first],
            retry_after=max(1, wait),
            refused_for=reply[2 + 2 * first] / 1000,
            policy=states[first].policy,
            name=self.keys([identities[first]])[0],
        )

    async def check(
        self,
        identities: Sequence[Identity],
        *,
        action: str = "",  # noqa: ARG002 - selects rules
        path: str = "",  # noqa: ARG002 - likewise
        tier: str = "",  # noqa: ARG002 - likewise
        cost: int | None = None,
        deadline: float | None = None,
    ) -> Charge:
        """Charge one request: one round trip. Never repeated when its outcome is unknown.

        Args:
            identities: Who asks.
            action: What is asked for, such as ``server:read``; selects rules.
            path: The path of an HTTP request; likewise.
            tier: The caller's plan, from a verified claim; likewise.
            cost: How many requests it counts as; left out, what the rules say of the action.
            deadline: On the event loop's clock, in seconds.

        Raises:
            StoreError: The server did not answer.
        """
        if not identities:
            return Charge(admitted=True, states=())
        reply = await self._store.state.run(
            _CHARGE,
            self.keys(identities),
            self.arguments(identities, cost=cost or 1),
            deadline=deadline,
        )
        return self.read(identities, reply.value, cost=cost or 1)

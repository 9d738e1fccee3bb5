"""What an operator sees of all breakers and does to them, without running any."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Literal

from sark.breaker.config import BreakerConfig
from sark.breaker.shared import SharedState
from sark.breaker.snapshot import Snapshot, snapshot_of
from sark.errors import InvalidRequestError
from sark.store import Store

__all__ = ["BreakerControl"]


class BreakerControl:
    """Shows and forces breakers by name. All methods may raise ``StoreError``.

    Args:
        store: Where they are.
        known: The rules of those that are known, in use or not. Others are known once a process
            has used them; what is shown of them supposes the default rules.
        budget: Seconds for one call.
    """

    def __init__(
        self, store: Store, known: Mapping[str, BreakerConfig], *, budget: float = 1.0
    ) -> None:
        self._store = store
        self._known = known
        self._budget = budget

    async def names(self) -> list[str]:
        """List the breakers that are known or have been in use."""
        key = self._store.keys.breaker_names
        found: list[bytes] = await self._store.state.execute(
            "SMEMBERS", key, deadline=self._deadline(), idempotent=True
        )
        return sorted({*self._known, *(name.decode("utf-8", "replace") for name in found)})

    async def list(self) -> list[Snapshot]:
        """Show all of them."""
        names = await self.names()
        return list(await asyncio.gather(*map(self._look, names)))

    async def show(self, name: str) -> Snapshot:
        """Show one.

        Raises:
            InvalidRequestError: There is no such breaker.
        """
        await self._check(name)
        return await self._look(name)

    async def force(
        self, name: str, what: Literal["open", "closed", "reset"], seconds: float = 0.0
    ) -> Snapshot:
        """Put one into a state by hand; when it returns, that is done.

        Args:
            name: Which.
            what: ``open`` or ``closed`` hold it there; ``reset`` closes it and forgets.
            seconds: How long it is held; 0: until somebody changes it.

        Raises:
            InvalidRequestError: There is no such breaker.
        """
        await self._check(name)
        seen = await self._shared(name).force(what, seconds, deadline=self._deadline())
        return snapshot_of(name, seen, shared=True)

    async def _look(self, name: str) -> Snapshot:
        seen = await self._shared(name).look(deadline=self._deadline())
        return snapshot_of(name, seen, shared=True)

    async def _check(self, name: str) -> None:
        names = await self.names()
        if name not in names:
            expected = f"expected one of: {', '.join(names)}" if names else "none is in use"
            raise InvalidRequestError("name", f"got {name[:80]!r}, {expected}")

    def _shared(self, name: str) -> SharedState:
        return SharedState(self._store, name, self._known.get(name) or BreakerConfig())

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self._budget

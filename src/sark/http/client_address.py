"""The address of the client, behind proxies that are trusted.

Without a trusted proxy it is the peer's, whatever the request says. Else the hops are walked from
the peer outwards, as long as the hop that was reached is trusted: only a trusted hop is believed
where its request came from. The first hop that isn't trusted is the client. Where the report ends
early, is malformed or hides the address, the last trusted hop stands for the client.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from starlette.types import Scope

from sark.http.forwarded import READERS, Address, parse_address
from sark.ratelimit import Identity
from sark.settings import ProxyHeader, Settings, TrustedNetwork

__all__ = ["TrustedProxies"]

MAX_HOPS = 32
NO_ADDRESS = "::"
"""Stands for clients without an address; none can have it (RFC 4291, section 2.5.2)."""


@dataclass(frozen=True, slots=True)
class TrustedProxies:
    """Which proxies are believed, and where they write the address that their request came from.

    With networks *and* a count, a hop has to pass both.

    Attributes:
        networks: Networks of proxies, and ``unix`` for a peer on a Unix socket.
        count: Most proxies, counted from the peer; None leaves it to the networks.
        header: The one header that is read.
    """

    networks: tuple[TrustedNetwork, ...] = ()
    count: int | None = None
    header: ProxyHeader = "x-forwarded-for"

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Take them from the settings."""
        return cls(
            settings.trusted_proxies or (), settings.trusted_proxy_count, settings.proxy_header
        )

    def client_address(self, scope: Scope) -> str | None:
        """Find the client's address.

        Args:
            scope: The ASGI scope of a request or a WebSocket.

        Returns:
            The address in its canonical form; None for a peer on a Unix socket, which has none,
            unless a proxy on that socket is trusted and reports one.
        """
        found = _peer(scope)
        if self.networks or self.count is not None:
            found = self._walk(scope, found)
        return None if found is None else str(found)

    def identity(self, scope: Scope) -> Identity:
        """Find whom a limit by address is charged to.

        All clients without an address are one, so that they are limited rather than not.
        """
        return "ip", self.client_address(scope) or NO_ADDRESS

    def _walk(self, scope: Scope, peer: Address | None) -> Address | None:
        name = self.header.encode("ascii")
        hops = READERS[self.header]([value for key, value in scope["headers"] if key == name])
        found = peer
        for passed in range(MAX_HOPS):
            further = next(hops, None) if self._trusts(found, passed) else None
            if further is None:
                break
            found = further
        return found

    def _trusts(self, hop: Address | None, passed: int) -> bool:
        if self.count is not None and passed >= self.count:
            return False
        if not self.networks:
            return self.count is not None
        if hop is None:
            return "unix" in self.networks
        return any(network != "unix" and hop in network for network in self.networks)


def _peer(scope: Scope) -> Address | None:
    client = scope.get("client")
    # The zone of a link-local peer comes from the socket; it is no part of the address.
    return None if client is None else parse_address(client[0].partition("%")[0])

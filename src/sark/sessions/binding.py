"""What sessions are bound to: the ip network that they began in, the user agent that began them."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import NamedTuple

from sark.errors import BindingError, InvalidRequestError
from sark.sessions.user_agent import user_agent_digest
from sark.settings import SessionBind

__all__ = ["Binding", "canonical_ip", "network_of"]

# What a provider gives to one customer, roughly: addresses change within it all the time.
IPV4_PREFIX = 24
IPV6_PREFIX = 64


class Binding(NamedTuple):
    """From where and with what a token is used, as far as that matters; else empty.

    Attributes:
        network: In CIDR notation.
        agent: Digest of the user agent.
    """

    network: str = ""
    agent: str = ""

    @classmethod
    def of(cls, bind: SessionBind, ip: str | None, user_agent: str | None) -> Binding:
        """Take what matters of a request.

        Raises:
            BindingError: It doesn't say what sessions are bound to.
            InvalidRequestError: ``ip`` is no address.
        """
        if bind == "none":
            return _UNBOUND
        network = agent = ""
        if bind in {"network", "both"}:
            if not ip:
                raise BindingError("network", "sessions are bound to their network: ip is missing")
            network = network_of(ip)
        if bind in {"user_agent", "both"}:
            if not user_agent:
                raise BindingError(
                    "user_agent", "sessions are bound to their user agent: it is missing"
                )
            agent = user_agent_digest(user_agent)
        return cls(network, agent)


_UNBOUND = Binding()


@lru_cache(maxsize=8192)
def network_of(ip: str) -> str:
    """Find the network of an address: its /24, or its /64 with IPv6.

    Raises:
        InvalidRequestError: It is no address.
    """
    address = _address(ip)
    prefix = IPV4_PREFIX if address.version == 4 else IPV6_PREFIX  # noqa: PLR2004 - of IP
    return str(ip_network((address, prefix), strict=False))


def canonical_ip(ip: str) -> str:
    """Spell an address in its one canonical form; one mapped into IPv6 is the IPv4 address.

    Raises:
        InvalidRequestError: It is no address.
    """
    return str(_address(ip))


def _address(ip: str) -> IPv4Address | IPv6Address:
    try:
        # A zone (``%eth0``) is free text, and no part of an address from elsewhere.
        address = None if "%" in ip else ip_address(ip)
    except ValueError:
        address = None
    if address is None:
        raise InvalidRequestError("ip", "got no IPv4 or IPv6 address")
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address

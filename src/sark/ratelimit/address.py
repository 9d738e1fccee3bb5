"""Addresses as identities: one spelling for each, and IPv6 by network."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

from sark.errors import InvalidRequestError

__all__ = ["address_of", "canonical_ip", "limited_ip"]

Address = IPv4Address | IPv6Address
IPV6_BITS = 128


@lru_cache(maxsize=8192)
def address_of(text: str) -> Address:
    """Read an ip address.

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
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


@lru_cache(maxsize=8192)
def canonical_ip(text: str) -> str:
    """Spell an ip address in its one canonical form; see ``address_of``.

    Raises:
        InvalidRequestError: It is none.
    """
    return str(address_of(text))


@lru_cache(maxsize=8192)
def limited_ip(text: str, prefix: int) -> str:
    """Name what an address is limited as: itself, or the IPv6 network that it is in.

    Args:
        text: An address, or a network as this function spells it.
        prefix: Bits of an IPv6 address that name its network; 128 for each address its own.

    Raises:
        InvalidRequestError: It is neither.
    """
    suffix = f"/{prefix}"
    address = address_of(text.removesuffix(suffix) if prefix < IPV6_BITS else text)
    if isinstance(address, IPv6Address) and prefix < IPV6_BITS:
        return str(IPv6Network((address, prefix), strict=False))
    if text.endswith(suffix):
        raise InvalidRequestError("ip", "got no IPv4 or IPv6 address")
    return str(address)

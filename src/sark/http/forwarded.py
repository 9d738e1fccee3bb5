"""The hops that proxies report in ``Forwarded`` (RFC 7239) and ``X-Forwarded-For``, nearest first.

Each proxy appends where its request came from, so the list is only worth believing from the right:
whatever stands left of what the own proxies wrote may have been sent by the client. Both readers
therefore work from the right end, and look at no byte further left than they are asked to. In
particular a quote that a client leaves open doesn't swallow what a proxy wrote behind it.

A reader ends where nothing more is known: at the end of the list, at an element that is malformed,
or at one that hides the address (``unknown``, ``_hidden``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from types import MappingProxyType

from sark.settings import ProxyHeader

__all__ = ["MAX_BYTES", "READERS", "Address", "parse_address"]

Address = IPv4Address | IPv6Address
Reader = Callable[[Sequence[bytes]], Iterator[Address]]

MAX_BYTES = 8192
"""Most bytes that are looked at, from the right. The element that this cuts is not used."""

_QUOTE, _COMMA, _BACKSLASH = ord('"'), ord(","), ord("\\")
_SPACE = b" \t"
_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
# An element's pairs may be empty (RFC 7239, section 4); spaces around them are tolerated.
_PAIR = re.compile(
    rb"[ \t]*(?:(?P<name>" + _TOKEN + rb")="
    rb"(?:(?P<token>" + _TOKEN + rb')|"(?P<quoted>(?:[^"\\]|\\.)*)")[ \t]*)?(?P<more>;)?',
    re.DOTALL,
)
_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)
# The port of a node is a number or hidden as well (RFC 7239, section 6).
_NODE = re.compile(
    rb"(?:\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?P<ipv4>[0-9.]+))"
    rb"(?::(?:(?P<port>[0-9]{1,5})|_[0-9A-Za-z._-]+))?"
)
_BARE_IPV6 = re.compile(rb"[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*")
_LAST_PORT = 65_535


@lru_cache(maxsize=8192)
def parse_address(text: str) -> Address | None:
    """Read an address; None when it is none. One mapped into IPv6 is the IPv4 address."""
    try:
        address = None if "%" in text else ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def read_x_forwarded_for(lines: Sequence[bytes]) -> Iterator[Address]:
    """Yield the addresses of ``X-Forwarded-For``, with or without port.

    Args:
        lines: The values of all its lines, in their order.
    """
    text, cut = _tail(lines)
    more = True
    while more:
        text, comma, element = text.rpartition(b",")
        more = bool(comma)
        if not more and cut:
            return
        element = element.strip(_SPACE)
        if not element:
            continue  # RFC 9110, section 5.6.1: empty elements don't count
        address = _node(element, bare_ipv6=True)
        if address is None:
            return
        yield address


def read_forwarded(lines: Sequence[bytes]) -> Iterator[Address]:
    """Yield the addresses of ``Forwarded``'s ``for`` parameters.

    Args:
        lines: The values of all its lines, in their order.
    """
    text, cut = _tail(lines)
    end = len(text)
    while end >= 0:
        comma = _comma_before(text, end)
        if comma < 0 and cut:
            return
        element = text[comma + 1 : end].strip(_SPACE)
        end = comma
        if not element:
            continue
        address = _forwarded_for(element)
        if address is None:
            return
        yield address


READERS: Mapping[ProxyHeader, Reader] = MappingProxyType(
    {"forwarded": read_forwarded, "x-forwarded-for": read_x_forwarded_for}
)
"""What reads each header."""


def _tail(lines: Sequence[bytes]) -> tuple[bytes, bool]:
    """Join lines to the one list that they are (RFC 9110, section 5.3), and bound it."""
    text = b",".join(lines)
    return text[-MAX_BYTES:], len(text) > MAX_BYTES


def _comma_before(text: bytes, end: int) -> int:
    """Find the comma that begins the element which ends at ``end``; -1 when it is the first.

    The end is outside quotes. Going left, a quote opens a quoted string, and the next one closes
    it unless an odd number of backslashes stands before it.
    """
    quoted = False
    at = end - 1
    while at >= 0:
        char = text[at]
        if char == _QUOTE:
            quoted = not quoted or _is_escaped(text, at)
        elif char == _COMMA and not quoted:
            return at
        at -= 1
    return -1


def _is_escaped(text: bytes, at: int) -> bool:
    before = at
    while before > 0 and text[before - 1] == _BACKSLASH:
        before -= 1
    return (at - before) % 2 == 1


def _forwarded_for(element: bytes) -> Address | None:
    """Read the address of one element; None when it has none or is malformed."""
    found: dict[bytes, bytes] = {}
    at, more = 0, True
    while more:
        pair = _PAIR.match(element, at)
        assert pair is not None  # noqa: S101 - all of it is optional, so it matches something
        if (name := pair["name"]) is not None:
            name = name.lower()
            if name in found:
                return None
            value = pair["token"]
            found[name] = _ESCAPED.sub(rb"\1", pair["quoted"]) if value is None else value
        at, more = pair.end(), pair["more"] is not None
    return _node(found[b"for"]) if at == len(element) and b"for" in found else None


def _node(text: bytes, *, bare_ipv6: bool = False) -> Address | None:
    """Read a node: an address with or without port. None when it is hidden or malformed."""
    match = _NODE.fullmatch(text)
    if match is None:
        bare = bare_ipv6 and _BARE_IPV6.fullmatch(text)
        return parse_address(text.decode("ascii")) if bare else None
    if match["port"] is not None and int(match["port"]) > _LAST_PORT:
        return None
    ipv6: bytes | None = match["ipv6"]
    if ipv6 is not None and b":" not in ipv6:
        return None
    return parse_address((ipv6 or match["ipv4"]).decode("ascii"))

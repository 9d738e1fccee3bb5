"""Addresses of the receivers of audit events, such as ``splunk=splunk+https://host:8088?ack=true``.

Only their form is checked here. Which schemes exist, and which options each takes, is known to the
sinks themselves: ``sark.siem.sinks.registry`` checks that when the process starts.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from sark.settings._urls import MASK

__all__ = [
    "ACCEPTED_SINKS",
    "SINK_NAME",
    "SinkAddress",
    "audit_file",
    "check_sinks",
    "mask_sinks",
    "parse_sinks",
]

MAIN = "main"
MOST_SINKS = 16
SINK_NAME = "[a-z][a-z0-9_]{0,31}"
ACCEPTED_SINKS = (
    "comma separated name=address pairs such as splunk=splunk+https://host:8088?ack=true, a name "
    "of a-z, 0-9, _ once each (a lone address is main); no user, password, fragment; a comma as %2C"
)

_NAME = re.compile(SINK_NAME)
_ADDRESS = re.compile(
    r"""(?P<scheme>[a-z][a-z0-9]{0,15}(?:\+[a-z][a-z0-9]{0,15})?):
    (?://
        (?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)?
        (?::(?P<port>[0-9]{1,5}))?
        (?P<path>/[!-~]*?)?
    )?
    (?:\?(?P<query>[!-~]*))?""",
    re.VERBOSE,
)
_SCHEME = re.compile(r"[a-z][a-z0-9+]{0,32}(?=:)")
_OPTION = re.compile(r"(?P<name>[a-z][a-z0-9_]{0,31})=(?P<value>[!-~]+)")
_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_LARGEST_PORT = 65535


@dataclass(frozen=True, slots=True)
class SinkAddress:
    """Where the events of one sink go.

    Nothing in it is a secret: the credential is ``Settings.siem_token(name)``.

    Attributes:
        name: Name of the sink.
        scheme: Such as ``splunk+https``; chooses the kind of sink.
        host: Name or IP address, the latter without brackets; empty for schemes without one.
        port: Port, or ``None`` for the scheme's own.
        path: Begins with a slash, percent-encoded as it was given; empty without one.
        options: Names and decoded values, in the order in which they were given.
    """

    name: str
    scheme: str
    host: str = ""
    port: int | None = None
    path: str = ""
    options: tuple[tuple[str, str], ...] = ()

    @property
    def transport(self) -> str:
        """What follows the plus in the scheme, such as ``https``; empty without one."""
        return self.scheme.partition("+")[2]

    @property
    def location(self) -> str:
        """Host and port as they stand in a URL."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"

    def option(self, name: str) -> str | None:
        """Return an option's value, or ``None`` if it was not given."""
        return dict(self.options).get(name)

    def __str__(self) -> str:
        slashes = "//" if self.host or self.path else ""
        query = "&".join(f"{name}={quote(value, safe='/:')}" for name, value in self.options)
        address = f"{self.scheme}:{slashes}{self.location}{self.path}"
        return f"{self.name}={address}?{query}" if query else f"{self.name}={address}"


def audit_file(folder: Path) -> SinkAddress:
    """Return the sink of a deployment that names none: a file in the data folder."""
    return SinkAddress(MAIN, "file", path=quote(str(folder.absolute() / "audit.jsonl")))


def parse_sinks(text: str) -> tuple[SinkAddress, ...]:
    """Read a list of addresses.

    Raises:
        ValueError: It isn't one. The message says which address and what is wrong about it, and
            holds nothing that may be secret.
    """
    sinks = tuple(_sink(item.strip()) for item in text.split(","))
    check_sinks(sinks)
    return sinks


def check_sinks(sinks: tuple[SinkAddress, ...]) -> None:
    """Check what concerns all of them together.

    Raises:
        ValueError: There are none or too many, or two with one name.
    """
    names = [sink.name for sink in sinks]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{twice[0]} stands in it twice")
    if not 1 <= len(sinks) <= MOST_SINKS:
        raise ValueError(f"{len(sinks)} sinks, of at most {MOST_SINKS}")


def mask_sinks(text: str) -> str:
    """Return a refused list of addresses fit for people and logs, whatever was written there.

    Paths and options are masked, since a token may have been put there. With an ``@`` anywhere
    nobody can tell what belongs to a password, which may hold commas as well.
    """
    return MASK if "@" in text else ",".join(_mask(item.strip()) for item in text.split(","))


def _sink(item: str) -> SinkAddress:
    name, address = _split(item)
    if not _NAME.fullmatch(name):
        raise ValueError("a name that is none")
    match = _ADDRESS.fullmatch(address)
    if match is None or "#" in address or "@" in (match["path"] or ""):
        raise ValueError(f"{name}: {_fault(address)}")
    port = match["port"]
    if port is not None and (not match["host"] or not 1 <= int(port) <= _LARGEST_PORT):
        raise ValueError(f"{name}: a port that is none")
    host = (match["host"] or "").lower()
    if host.startswith("[") and not _is_ipv6(host[1:-1]):
        raise ValueError(f"{name}: an IPv6 address that is none")
    if _BROKEN_ESCAPE.search(address):
        raise ValueError(f"{name}: a % that is not followed by two hexadecimal digits")
    return SinkAddress(
        name=name,
        scheme=match["scheme"],
        host=host.strip("[]"),
        port=None if port is None else int(port),
        path=match["path"] or "",
        options=_options(name, match["query"]),
    )


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def _split(item: str) -> tuple[str, str]:
    """Split the name off; a sign of equality in an address stands behind its colon."""
    head, equals, rest = item.partition("=")
    is_named = equals and not any(sign in head for sign in ":/?#")
    return (head, rest) if is_named else (MAIN, item)


def _fault(address: str) -> str:
    """Tell why an address is refused, without repeating it."""
    if not _SCHEME.match(address):
        return "no scheme such as splunk+https: in lower case"
    if "@" in address.partition("?")[0]:
        return "a user or password in the address, or a bare @ in its path"
    if "#" in address:
        return "a fragment (#)"
    if not address.isascii() or not address.isprintable() or " " in address:
        return "a character that has to be percent-encoded"
    return "not scheme://host:port/path?options"


def _options(name: str, query: str | None) -> tuple[tuple[str, str], ...]:
    options: dict[str, str] = {}
    for item in query.split("&") if query is not None else ():
        match = _OPTION.fullmatch(item)
        if match is None:
            raise ValueError(f"{name}: an option that is not written name=value")
        value = unquote(match["value"])
        if match["name"] in options:
            raise ValueError(f"{name}: the option {match['name']} stands in it twice")
        if not value.isprintable() or "\N{REPLACEMENT CHARACTER}" in value:
            raise ValueError(f"{name}: the option {match['name']} is not printable UTF-8")
        options[match["name"]] = value
    return tuple(options.items())


def _mask(item: str) -> str:
    name, address = _split(item)
    named = f"{name}=" if item != address and _NAME.fullmatch(name) else ""
    match = _ADDRESS.fullmatch(address)
    if match is None:
        scheme = _SCHEME.match(address)
        return f"{named}{scheme.group()}:{MASK}" if scheme else f"{named}{MASK}"
    port = "" if match["port"] is None else f":{match['port']}"
    shown = f"{match['scheme']}:{'//' if '//' in address else ''}{match['host'] or ''}{port}"
    return f"{named}{shown}" if shown == address else f"{named}{shown}/{MASK}"

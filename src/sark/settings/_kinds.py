"""The kinds of values that variables take: what is accepted, how it is read and shown.

A kind stands in the annotation of a field of ``Settings``. Pydantic calls its ``parse``; error
lines, the ``sark settings`` table and the reference read its other attributes. So a rule and the
sentence that describes it are written side by side, and only once.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import GetCoreSchemaHandler, Secret, SecretStr
from pydantic_core import CoreSchema, core_schema

from sark.settings._sinks import (
    ACCEPTED_SINKS,
    SINK_NAME,
    SinkAddress,
    check_sinks,
    mask_sinks,
    parse_sinks,
)
from sark.settings._urls import (
    ACCEPTED_ISSUERS,
    ACCEPTED_OPA_URL,
    ACCEPTED_URL,
    MASK,
    ServerUrl,
    check_jwks_url,
    check_opa_url,
    check_url,
    mask_url,
)

LONGEST_SHOWN = 80
"""Characters of a refused value that are repeated to the user."""

_WHOLE = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_FLAGS = {
    **dict.fromkeys(("true", "1", "yes", "on"), True),
    **dict.fromkeys(("false", "0", "no", "off"), False),
}
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?"
# The last label has a letter, or a mistyped address such as 127.0.0 would pass for a name.
_HOST_NAME = re.compile(rf"(?=.{{1,253}}$)({_LABEL}\.)*(?![0-9]+$){_LABEL}")
_HOST_AND_PORT = re.compile(r"(?:\[(?P<ipv6>[^\]]+)\]|(?P<name>[^:\[\]]+)):(?P<port>[0-9]{1,5})")
_PORTS = range(1, 65536)
# An issuer may hold an "=" as well; its keys' address begins at the first one before a scheme.
_TRUSTED = re.compile(r"(?P<issuer>[!-+\--~]{1,256}?)=(?P<url>https?://[!-+\--~]+)")


TrustedNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network | Literal["unix"]
"""Where proxies may be: a network, or a Unix socket."""


class HostPort(NamedTuple):
    """Where a Sentinel listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class TrustedIssuer(NamedTuple):
    """An outside identity provider whose access tokens are accepted."""

    issuer: str
    jwks_url: str

    def __str__(self) -> str:
        return f"{self.issuer}={self.jwks_url}"


def show_plain(value: object) -> str:
    """Return a value as it would be written in the environment."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    written = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    # A path may hold anything, also what a terminal would obey or can't encode.
    return written if written.isprintable() else ascii(written)


@dataclass(frozen=True, slots=True)
class Kind:
    """What one variable takes.

    Attributes:
        type: A word or two for tables.
        accepted: What is accepted, completing the sentence "expected ...".
        parse: Turns a string, or a value given in code, into the field's value; raises
            ``ValueError`` for what isn't accepted. Never called with ``None``.
        unit: What a number counts, or ``None``.
        secret: Whether no part of a value may ever be shown.
        show: Writes an accepted value for people.
        mask: Makes a refused text showable, where it may hold a password that only addresses have.
        explains: Whether the ``ValueError`` tells people what is wrong, and holds nothing secret.
    """

    type: str
    accepted: str
    parse: Callable[[Any], object]
    unit: str | None = None
    secret: bool = False
    show: Callable[[Any], str] = show_plain
    mask: Callable[[str], str] | None = None
    explains: bool = False

    @property
    def expected(self) -> str:
        """What is accepted, with its unit."""
        return f"{self.accepted} ({self.unit})" if self.unit else self.accepted

    def refused(self, value: object) -> str:
        """Return a refused value on one line, fit for an error message."""
        if self.secret:
            return "a value that is not shown because it is a secret"
        if isinstance(value, str):
            # ``repr`` escapes line breaks, control characters and broken encodings.
            return repr(_shorten(self.mask(value) if self.mask else value))
        return MASK if self.mask else _shorten(ascii(value))

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_before_validator_function(
            lambda value: None if value is None else self.parse(value), handler(source)
        )


def whole(low: int, high: int, unit: str | None = None) -> Kind:
    """A whole number between two bounds, both included."""

    def parse(value: object) -> int:
        number = int(value) if isinstance(value, str) and _WHOLE.fullmatch(value.strip()) else value
        # A boolean is an int to Python, and never meant as one here.
        if isinstance(number, bool) or not isinstance(number, int) or not low <= number <= high:
            raise ValueError("not a whole number in range")
        return number

    return Kind("whole number", f"a whole number from {low} to {high}", parse, unit)


def number(low: float, high: float, unit: str, *, above: bool = False) -> Kind:
    """A finite number up to a bound, from ``low`` or, with ``above``, only above it."""

    def parse(value: object) -> float:
        given = value
        if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
            given = float(value)
        if isinstance(given, bool) or not isinstance(given, int | float):
            raise ValueError("not a number")  # noqa: TRY004 - pydantic takes ValueError alone
        if not low <= given <= high or (above and given == low):
            raise ValueError("not a number in range")
        return float(given)

    bounds = f"above {low:g} and up to {high:g}" if above else f"from {low:g} to {high:g}"
    return Kind("number", f"a number {bounds}", parse, unit)


def choice(*options: str) -> Kind:
    """One of a few words, in any case."""
    spelled = {option.lower(): option for option in options}

    def parse(value: object) -> str:
        word = value.strip().lower() if isinstance(value, str) else ""
        if word not in spelled:
            raise ValueError("not one of the options")
        return spelled[word]

    return Kind("choice", f"one of {', '.join(options)}", parse)


def flag() -> Kind:
    """A switch."""

    def parse(value: object) -> bool:
        given = _FLAGS.get(value.strip().lower()) if isinstance(value, str) else value
        if not isinstance(given, bool):
            raise ValueError("neither true nor false")  # noqa: TRY004 - pydantic takes ValueError
        return given

    return Kind("flag", "true or false (or 1, 0, yes, no, on, off)", parse)


def text(accepted: str, pattern: str, type_: str = "text") -> Kind:
    """A string that matches a pattern."""
    compiled = re.compile(pattern)

    def parse(value: object) -> str:
        given = value.strip() if isinstance(value, str) else ""
        if not compiled.fullmatch(given):
            raise ValueError("does not match")
        return given

    return Kind(type_, accepted, parse)


def names(pattern: str) -> Kind:
    """A comma separated list of different names."""
    compiled = re.compile(pattern)

    def parse(value: object) -> tuple[str, ...]:
        items = _items(value)
        if not all(compiled.fullmatch(item) for item in items) or len({*items}) != len(items):
            raise ValueError("not a list of different names")
        return items

    return Kind("list", f"comma separated names, each once and matching {pattern}", parse)


def host() -> Kind:
    """A name or an address to listen on."""

    def parse(value: object) -> str:
        given = value.strip() if isinstance(value, str) else ""
        _check_host(given)
        return given

    return Kind("host", "a host name or an IP address (IPv6 without brackets)", parse)


def hosts_and_ports() -> Kind:
    """A comma separated list of places to connect to."""

    def parse(value: object) -> tuple[HostPort, ...]:
        return tuple(_host_and_port(item) for item in _items(value))

    return Kind("list", "comma separated host:port pairs (IPv6 in brackets)", parse)


def trusted_issuers() -> Kind:
    """A comma separated list of issuers with the addresses of their keys."""

    def parse(value: object) -> tuple[TrustedIssuer, ...]:
        found = tuple(_trusted_issuer(item) for item in _items(value))
        if len({trusted.issuer for trusted in found}) != len(found):
            raise ValueError("an issuer stands in it twice")
        return found

    return Kind("list", ACCEPTED_ISSUERS, parse, mask=mask_url)


def sinks() -> Kind:
    """A comma separated list of receivers of audit events."""

    def parse(value: object) -> tuple[SinkAddress, ...]:
        if isinstance(value, str):
            return parse_sinks(value)
        if not isinstance(value, tuple) or not all(isinstance(s, SinkAddress) for s in value):
            raise ValueError("neither text nor a tuple of addresses")
        check_sinks(value)
        return value

    return Kind("list", ACCEPTED_SINKS, parse, mask=mask_sinks, explains=True)


def sink_tokens() -> Kind:
    """Credentials by name of their sink, never shown; each is a variable of its own."""
    name, token = re.compile(SINK_NAME), re.compile("[!-~]+")

    def parse(value: object) -> dict[str, SecretStr]:
        if not isinstance(value, Mapping):
            raise ValueError("not a mapping")  # noqa: TRY004 - pydantic takes ValueError alone
        parsed = {}
        for sink, given in value.items():
            text = given.get_secret_value() if isinstance(given, SecretStr) else given
            if not isinstance(sink, str) or not name.fullmatch(sink):
                raise ValueError("the name of no sink")
            if not isinstance(text, str) or not token.fullmatch(text):
                raise ValueError(f"of {sink}")
            parsed[sink] = SecretStr(text)
        return parsed

    return Kind(
        "secrets",
        "printable ASCII characters without spaces",
        parse,
        secret=True,
        show=lambda tokens: ", ".join(f"{sink}={MASK}" for sink in tokens),
        explains=True,
    )


def networks() -> Kind:
    """A comma separated list of networks; ``unix`` stands for peers on a Unix socket."""

    def parse(value: object) -> tuple[TrustedNetwork, ...]:
        return tuple(map(_network, _items(value)))

    return Kind(
        "list",
        "comma separated networks such as 10.0.0.0/8, addresses, or 'unix'; not the whole internet",
        parse,
    )


def path() -> Kind:
    """A file or folder, absolute or relative to the working directory."""

    def parse(value: object) -> Path:
        if not isinstance(value, str | Path) or "\0" in str(value):
            raise ValueError("not a path")
        return Path(value)

    return Kind("path", "a path", parse)


def secret(accepted: str, pattern: str) -> Kind:
    """A string that is never shown. It is taken as it comes: spaces may be part of it."""
    compiled = re.compile(pattern, re.DOTALL)

    def parse(value: object) -> str:
        given = value.get_secret_value() if isinstance(value, SecretStr) else value
        if not isinstance(given, str) or not compiled.fullmatch(given):
            raise ValueError("does not match")
        return given

    return Kind("secret", accepted, parse, secret=True, show=lambda _: MASK)


def mask_server_url(url: ServerUrl) -> str:
    """Return a server's address with its password masked."""
    return str(url)


def server_url() -> Kind:
    """The address of a Valkey server; its password is masked wherever it is shown."""

    def parse(value: object) -> str:
        given = value.get_secret_value() if isinstance(value, Secret) else value
        if not isinstance(given, str):
            raise ValueError("not a string")  # noqa: TRY004 - pydantic takes ValueError alone
        return check_url(given)

    return Kind("URL", ACCEPTED_URL, parse, show=mask_server_url, mask=mask_url)


def opa_url() -> Kind:
    """The address of OPA, which holds no secret."""

    def parse(value: object) -> str:
        if not isinstance(value, str):
            raise ValueError("not a string")  # noqa: TRY004 - pydantic takes ValueError alone
        return check_opa_url(value)

    return Kind("URL", ACCEPTED_OPA_URL, parse, mask=mask_url)


def _shorten(text: str) -> str:
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


def _items(value: object) -> tuple[str, ...]:
    """Split a list given as a string; a list given in code is checked item by item as well."""
    if isinstance(value, str):
        return tuple(item.strip() for item in value.split(","))
    if not isinstance(value, Iterable):
        raise ValueError("not a list")  # noqa: TRY004 - pydantic takes ValueError alone
    items = tuple(map(str, value))
    if not items:
        raise ValueError("an empty list")
    return items


def _check_host(given: str) -> None:
    if not _HOST_NAME.fullmatch(given):
        ipaddress.ip_address(given)


def _host_and_port(item: str) -> HostPort:
    match = _HOST_AND_PORT.fullmatch(item)
    if match is None or int(match["port"]) not in _PORTS:
        raise ValueError("not a host and a port")
    if match["ipv6"]:
        ipaddress.IPv6Address(match["ipv6"])
    else:
        _check_host(match["name"])
    return HostPort(match["ipv6"] or match["name"], int(match["port"]))


def _trusted_issuer(item: str) -> TrustedIssuer:
    match = _TRUSTED.fullmatch(item)
    if match is None:
        raise ValueError("not an issuer and an address")
    return TrustedIssuer(match["issuer"], check_jwks_url(match["url"]))


def _network(item: str) -> TrustedNetwork:
    if item == "unix":
        return "unix"
    network = ipaddress.ip_network(item)
    if network.prefixlen == 0:
        raise ValueError("everybody would be trusted")
    return network

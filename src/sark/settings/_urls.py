"""Addresses of Valkey servers, which may hold a password, and of OPA, which may not.

One pattern decides both what is accepted and what may be shown. In text that doesn't match,
nobody can tell where a password begins or ends (``valkey://:pa/ss@host``), so all of it is hidden
but the scheme.
"""

from __future__ import annotations

import ipaddress
import re

from pydantic import Secret

MASK = "***"
SCHEMES = ("valkey", "valkeys", "redis", "rediss", "unix")
ACCEPTED_URL = (
    "a URL such as valkey://user:password@host:6379/0 (schemes valkey, valkeys, redis, rediss; "
    "special characters in the password percent-encoded; options db, username, password, ssl_*) "
    "or unix:///path/to/socket"
)
OPA_SCHEMES = ("http", "https", "unix")
ACCEPTED_OPA_URL = (
    "a URL such as http://127.0.0.1:8181, https://opa.example/base or unix:///path/to/socket, "
    "without user, password or query (OPA_TOKEN holds the credential)"
)

ACCEPTED_ISSUERS = (
    "comma separated issuer=jwks_url pairs, each issuer once, such as "
    "https://idp.example=https://idp.example/jwks.json (https, or http on loopback; without user "
    "and password)"
)

# An "@" occurs at most once, before the host: further ones could only be part of a password.
_URL = re.compile(
    r"""(?P<scheme>[a-z]+)://
    (?:(?P<user>[^:@/?#\s]*)(?P<colon>:)?(?P<password>[^@/?#\s]*)@)?
    (?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)?
    (?::(?P<port>[0-9]{1,5}))?
    (?P<path>/[^?\#@]*)?
    (?:\?(?P<query>[^\#@\s]*))?""",
    re.VERBOSE,
)
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]{0,15}(?=://)")
_HOST_AND_PORT = re.compile(r"[A-Za-z0-9._-]+:[0-9]{1,5}")
_NUMBER = re.compile(r"[0-9]{1,5}")
_DATABASE = re.compile(r"(?:/[0-9]{0,5})?")
# The driver would take timeouts and pool sizes here too, past the bounds of their own variables.
_OPTION = re.compile(r"db|username|password|ssl_[a-z_]+")
_LARGEST_PORT = 65535


class ServerUrl(Secret[str]):
    """The address of a server; ``str`` and ``repr`` hide its password."""

    def _display(self) -> str:
        return mask_url(self.get_secret_value())


def mask_url(url: str) -> str:
    """Return the address fit for people and logs.

    Args:
        url: Any text given as an address, well formed or not.

    Returns:
        The address with the password masked, such as ``valkey://:***@host:6379/0``. What can't
        be read as an address is masked except for its scheme.
    """
    match = _match(url)
    if match is None:
        scheme = _SCHEME.match(url)
        if scheme:
            return f"{scheme.group()}://{MASK}"
        return url if _HOST_AND_PORT.fullmatch(url) else MASK
    port = f":{match['port']}" if match["port"] else ""
    query = f"?{_mask_query(match['query'])}" if match["query"] else ""
    location = f"{match['host'] or ''}{port}{match['path'] or ''}{query}"
    return f"{match['scheme']}://{_mask_user(match)}{location}"


def check_url(url: str) -> str:
    """Return the address unchanged.

    Raises:
        ValueError: If it isn't the address of a server.
    """
    match = _match(url)
    if match is None or match["scheme"] not in SCHEMES:
        raise ValueError("not an address of a server")
    _check_location(match)
    if match["scheme"] != "unix" and not _DATABASE.fullmatch(match["path"] or ""):
        raise ValueError("neither a database nor nothing after the host")
    _check_query(match["query"])
    return url


def check_opa_url(url: str) -> str:
    """Return the address unchanged.

    Raises:
        ValueError: If it isn't the address of an OPA, or holds more than that.
    """
    match = _match(url)
    if match is None or match["scheme"] not in OPA_SCHEMES:
        raise ValueError("not an address of OPA")
    _check_location(match)
    if match["user"] is not None or "?" in url:
        raise ValueError("credentials or a query")
    return url


def check_jwks_url(url: str) -> str:
    """Return the address unchanged.

    Raises:
        ValueError: If keys must not be fetched from there: it isn't https beyond this machine, or
            it holds credentials.
    """
    match = _match(url)
    if match is None or match["scheme"] not in ("http", "https"):
        raise ValueError("not an address of keys")
    _check_location(match)
    if match["user"] is not None:
        raise ValueError("credentials")
    if match["scheme"] == "http" and not is_loopback(match["host"].strip("[]")):
        raise ValueError("keys that anybody on the way could replace")
    return url


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine itself, which no other one can reach or speak for."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        # Other names depend on a resolver, so nobody can promise where they lead.
        return host.lower() == "localhost"


def _check_location(match: re.Match[str]) -> None:
    if match["scheme"] == "unix":
        located = not match["host"] and len(match["path"] or "") > 1
    else:
        located = bool(match["host"])
    if not located or int(match["port"] or 1) not in range(1, _LARGEST_PORT + 1):
        raise ValueError("no host, socket or port to connect to")


def _check_query(query: str | None) -> None:
    for option in query.split("&") if query else ():
        name, _, value = option.partition("=")
        known = _OPTION.fullmatch(name) and value
        if not known or (name == "db" and not _is_database(name, value)):
            raise ValueError("an option that has no place in an address")


def _match(url: str) -> re.Match[str] | None:
    match = _URL.fullmatch(url) if url.isprintable() else None
    # A port without a host is a password whose "@" was forgotten or put in the wrong place.
    return match if match and (match["host"] or not match["port"]) else None


def _mask_user(match: re.Match[str]) -> str:
    if match["user"] is None:
        return ""
    # Without a colon it is a user's name by the standard, but some tools take it for a password.
    return f"{match['user']}:{MASK}@" if match["colon"] else f"{MASK}@"


def _mask_query(query: str) -> str:
    """Keep the options' names and the database; the driver takes a password here as well."""
    return "&".join(_mask_option(*option.partition("=")) for option in query.split("&"))


def _mask_option(name: str, equals: str, value: str) -> str:
    if not _OPTION.fullmatch(name):
        return MASK
    return f"{name}{equals}{value if _is_database(name, value) else MASK}"


def _is_database(name: str, value: str) -> bool:
    return name == "db" and _NUMBER.fullmatch(value) is not None

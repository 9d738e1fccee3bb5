"""Reading structured fields (RFC 9651, section 4.2) as strictly as a client may: lists of strings
with parameters that are integers, strings or tokens. Anything else fails."""

from __future__ import annotations

import re

__all__ = ["Items", "parse_list"]

Items = dict[str, dict[str, int | str]]

_STRING = r'"((?:[ !#-\[\]-~]|\\["\\])*)"'
_ITEM = re.compile(_STRING)
_PARAMETER = re.compile(
    r"; *(?P<key>[a-z*][a-z0-9_.*-]*)=(?:(?P<integer>-?[0-9]{1,15})(?![0-9.])|"
    + _STRING
    + r"|(?P<token>[A-Za-z*][!#$%&'*+.^_`|~0-9A-Za-z:/-]*))"
)
_COMMA = re.compile(r"[ \t]*,[ \t]*")


def parse_list(value: str) -> Items:
    """Read a list; returns the items' parameters by the items' strings, which must differ."""
    items: Items = {}
    at = 0
    while True:
        item = _ITEM.match(value, at)
        assert item is not None, f"no string at {at}: {value!r}"
        name = _unescape(item[1])
        assert name not in items, f"{name!r} stands twice: {value!r}"
        items[name], at = {}, item.end()
        while parameter := _PARAMETER.match(value, at):
            at = parameter.end()
            if parameter["integer"] is not None:
                items[name][parameter["key"]] = int(parameter["integer"])
            else:
                items[name][parameter["key"]] = parameter["token"] or _unescape(parameter[3])
        if at == len(value):
            return items
        comma = _COMMA.match(value, at)
        assert comma is not None, f"neither parameter nor comma at {at}: {value!r}"
        at = comma.end()


def _unescape(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)

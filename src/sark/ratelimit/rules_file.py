"""The limits file: rules, costs of actions, and who is always or never admitted.

``SARK_LIMITS_FILE`` names a TOML file; ``docs/limits.md`` describes it and ``examples/limits.toml``
is one. Here it is read into frozen data. All that may be wrong with it is found when it is read,
and told in one line with the place: ``path:line: key: got ..., expected ...``.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable
from hashlib import sha256
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

from sark.keyspace import encode_id
from sark.patterns import Patterns
from sark.ratelimit.limit import (
    ALGORITHMS,
    EXPECTED_LIMIT,
    KINDS,
    MAX_REQUESTS,
    Algorithm,
    Kind,
    Limit,
    parse_limit,
)
from sark.ratelimit.rules import MAX_LIMITS_AT_ONCE, Listed, Rule, Rules
from sark.toml_file import TomlFile, show, spell, where
from sark.toml_lines import KeyPath

__all__ = ["read_rules"]

MAX_LIMITS = 8
"""Limits of one rule."""
MAX_RULES_AT_ONCE = 8
"""Rules that may apply to one identity: those that go on, and the last."""
REVISION_CHARACTERS = 16
_RESERVED = ("deny", *KINDS)
EXPECTED_NAME = (
    "a name of up to 32 lower-case letters, digits and '-', beginning with a letter, and none of "
    + ", ".join(_RESERVED)
)
EXPECTED_PATTERN = "a text of 1 to 256 characters, in which * stands for any"
EXPECTED_NETWORK = "an address, or a network such as 10.0.0.0/8"
LONGEST_PATTERN = 256

_log = logging.getLogger("sark.ratelimit.rules")
_TABLES = ("rules", "costs", "allow", "deny")
_RULE = ("kind", "limits", "algorithm", "action", "path", "tier", "shadow", "continue")
_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}").fullmatch


def read_rules(path: Path | None, default: Limit | None) -> Rules:
    """Read a limits file.

    Args:
        path: The value of ``SARK_LIMITS_FILE``; None for the default limit alone.
        default: The limit of each identity that no rule decides; None for no limit.

    Raises:
        ConfigurationError: It cannot be read, or something in it is wrong.
    """
    if path is None:
        return Rules(default)
    file = TomlFile(path)
    document = file.document
    file.refuse_unknown((), document, _TABLES)
    named = file.table(("rules",), document.get("rules", {}))
    rules = [_rule(file, ("rules", name), name, value) for name, value in named.items()]
    _refuse_clashes(file, rules)
    made = Rules(
        default,
        rules,
        costs=_costs(file, document.get("costs", {})),
        allow=_listed(file, ("allow",), document.get("allow", {})),
        deny=_listed(file, ("deny",), document.get("deny", {})),
        revision=sha256(file.content).hexdigest()[:REVISION_CHARACTERS],
    )
    for name in made.unreachable:
        key = ("rules", name)
        place = f"{where(path, file.line(key))}: {spell(key)}"
        _log.warning("%s: never applies: earlier rules decide all that it matches", place)
    return made


def _rule(file: TomlFile, key: KeyPath, name: str, value: object) -> Rule:
    if not _NAME(name) or name in _RESERVED:
        file.refuse(key, show(name), EXPECTED_NAME)
    table = file.table(key, value)
    file.refuse_unknown(key, table, _RULE)
    for needed in ("kind", "limits"):
        if needed not in table:
            file.refuse((*key, needed), "nothing", "a value")
    algorithm = table.get("algorithm")
    if algorithm is not None and algorithm not in ALGORITHMS:
        expected = f"one of: {', '.join(ALGORITHMS)}"
        file.refuse((*key, "algorithm"), show(algorithm), expected)
    return Rule(
        name,
        _kinds(file, (*key, "kind"), table["kind"]),
        _limits(file, (*key, "limits"), table["limits"], algorithm),
        actions=_patterns(file, (*key, "action"), table),
        paths=_patterns(file, (*key, "path"), table),
        tiers=frozenset(_texts(file, (*key, "tier"), table)),
        shadow=file.flag((*key, "shadow"), table.get("shadow", False)),
        goes_on=file.flag((*key, "continue"), table.get("continue", False)),
    )


def _kinds(file: TomlFile, key: KeyPath, value: object) -> tuple[Kind, ...]:
    several = isinstance(value, list)
    found: list[Kind] = []
    for index, kind in enumerate(value if isinstance(value, list) else [value]):
        item = index if several else None
        if kind not in KINDS:
            file.refuse(key, show(kind), f"one of: {', '.join(get_args(Kind))}", item)
        if kind in found:
            file.refuse(key, f"{show(kind)} again", "each kind once", item)
        found.append(kind)
    if not found:
        file.refuse(key, "no kind", f"at least one of: {', '.join(get_args(Kind))}")
    return tuple(found)


def _limits(
    file: TomlFile, key: KeyPath, value: object, algorithm: Algorithm | None
) -> tuple[Limit, ...]:
    limits: list[Limit] = []
    for index, text in enumerate(file.array(key, value, "an array of limits")):
        if not isinstance(text, str):
            file.refuse(key, show(text), EXPECTED_LIMIT, index)
        try:
            limit = parse_limit(text, algorithm)
        except ValueError as error:
            came, _, expected = str(error).removeprefix("got ").partition(", expected ")
            file.refuse(key, came, expected, index)
        if any(other.window_seconds == limit.window_seconds for other in limits):
            file.refuse(key, f"a second limit for {limit.window_seconds} s", "one", index)
        limits.append(limit)
    if len(limits) > MAX_LIMITS:
        file.refuse(key, f"{len(limits)} limits", f"at most {MAX_LIMITS}")
    return tuple(limits)


def _patterns(file: TomlFile, key: KeyPath, table: dict[str, Any]) -> Patterns:
    return Patterns(_texts(file, key, table))


def _texts(file: TomlFile, key: KeyPath, table: dict[str, Any]) -> Iterable[str]:
    """Read one text or several; none when the key is not there."""
    if key[-1] not in table:
        return ()
    value = table[key[-1]]
    several = isinstance(value, list)
    texts = value if isinstance(value, list) else [value]
    for index, text in enumerate(texts):
        if not isinstance(text, str) or not 1 <= len(text) <= LONGEST_PATTERN:
            file.refuse(key, show(text), EXPECTED_PATTERN, index if several else None)
    if not texts:
        file.refuse(key, "an empty array", f"{EXPECTED_PATTERN}, or no key")
    return texts


def _costs(file: TomlFile, value: object) -> list[tuple[Patterns, int]]:
    costs = []
    for pattern, cost in file.table(("costs",), value).items():
        key = ("costs", pattern)
        if not 1 <= len(pattern) <= LONGEST_PATTERN:
            file.refuse(key, show(pattern), EXPECTED_PATTERN)
        if isinstance(cost, bool) or not isinstance(cost, int) or not 1 <= cost <= MAX_REQUESTS:
            file.refuse(key, show(cost), f"a whole number from 1 to {MAX_REQUESTS}")
        costs.append((Patterns([pattern]), cost))
    return costs


def _listed(file: TomlFile, key: KeyPath, value: object) -> Listed:
    table = file.table(key, value)
    file.refuse_unknown(key, table, KINDS)
    ids: dict[Kind, frozenset[str]] = {}
    for kind in ("user", "apikey"):
        if kind in table:
            ids[kind] = frozenset(_each(file, (*key, kind), table[kind], "an id", _id))
    networks = _each(file, (*key, "ip"), table.get("ip", []), EXPECTED_NETWORK, _network)
    return Listed(MappingProxyType(ids), tuple(networks))


def _each(
    file: TomlFile, key: KeyPath, value: object, expected: str, read: Callable[[str], Any]
) -> list[Any]:
    found = []
    for index, text in enumerate(file.array(key, value, f"an array, each item {expected}")):
        try:
            found.append(read(text))
        except (ValueError, TypeError, AttributeError):
            file.refuse(key, show(text), expected, index)
    return found


def _id(text: str) -> str:
    if not isinstance(text, str) or not text:
        raise ValueError("no id")
    encode_id(text)
    return text


def _network(text: str) -> IPv4Network | IPv6Network:
    if not isinstance(text, str) or "%" in text:
        raise ValueError("no network")
    network = ip_network(text)
    if isinstance(network, IPv6Network) and network.network_address.ipv4_mapped is not None:
        raise ValueError("an IPv4 address is compared as such")
    return network


def _refuse_clashes(file: TomlFile, rules: list[Rule]) -> None:
    """Refuse rules whose limits would go by one name, and too many for one request."""
    names: dict[str, str] = {}
    for rule in rules:
        for kind in KINDS:
            for applied in rule.applied(kind):
                if names.setdefault(applied.policy, rule.name) != rule.name:
                    came = f"a limit that is called {applied.policy}, as one of"
                    came += f" {names[applied.policy]} is"
                    file.refuse(("rules", rule.name), came, "another name")
    _refuse_too_many(file, rules)
    at_once = [rule for rule in rules if rule.goes_on]
    if len(at_once) >= MAX_RULES_AT_ONCE:
        came = f"{len(at_once)} rules that go on"
        file.refuse(("rules", at_once[-1].name), came, f"fewer than {MAX_RULES_AT_ONCE}")


def _refuse_too_many(file: TomlFile, rules: list[Rule]) -> None:
    """Refuse rules by which a request of one identity of each kind has too many limits."""
    most = 0
    for kind in KINDS:
        counts = [(rule.goes_on, len(rule.applied(kind))) for rule in rules]
        going_on = sum(count for goes_on, count in counts if goes_on)
        most += going_on + max([1, *(count for goes_on, count in counts if not goes_on)])
    if most > MAX_LIMITS_AT_ONCE:
        came = f"rules by which one request may have {most} limits"
        file.refuse(("rules", rules[-1].name), came, f"at most {MAX_LIMITS_AT_ONCE}")

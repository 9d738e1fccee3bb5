"""The policy file: how sensitive actions are, and what each policy sees of a request.

``SARK_POLICY_FILE`` names a TOML file; ``docs/caching.md`` describes it and
``examples/policy.toml`` is one. Here it is read into frozen data. All that may be wrong with it is
found when it is read, and told in one line with the place: ``path:line: key: got ..., expected
...``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sark.errors import ConfigurationError
from sark.policy.projection import (
    Context,
    Everything,
    FieldPath,
    Only,
    Projection,
    Without,
    with_vouched,
)
from sark.policy.sensitivity import Sensitivity, TtlTiers
from sark.policy.sensitivity_table import (
    BUILT_IN_TABLE,
    EXPECTED_PATTERN,
    SensitivityTable,
    is_pattern,
)
from sark.toml_file import TomlFile, show, spell, where
from sark.toml_lines import KeyPath

__all__ = ["PolicyFile", "PolicyRule", "read_policy_file"]

REVISION_CHARACTERS = 32
EXPECTED_FIELD = (
    "the path of a context field such as 'trace.id' (without * and empty names), or the names that "
    "lead to it such as ['trace', 'span.id']"
)
_TABLES = ("sensitivity", "policies")
_TIERS = tuple(map(str, Sensitivity))
# Looking a member up in its enumeration takes longer than all else that is done with it.
_LOW, _MEDIUM = Sensitivity.LOW, Sensitivity.MEDIUM
_VOUCHED = ("ip", "api_key_id")
_FLAGS = (*_VOUCHED, "cacheable")
_RULE = ("exclude_context", "include_context", *_FLAGS)


@dataclass(frozen=True, slots=True)
class PolicyRule:
    """What one policy sees of a request, and whether its decisions are kept.

    Attributes:
        projection: Cuts the caller's context.
        ip: Whether the request's address reaches the policy, as ``context.ip``.
        api_key_id: Likewise for the api key.
        cacheable: Whether decisions may be kept at all.
        line: Where the policy file names the policy.
    """

    projection: Projection = field(default_factory=Everything)
    ip: bool = False
    api_key_id: bool = False
    cacheable: bool = True
    line: int | None = None
    _passes: Callable[[Context], bool] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        vouched = frozenset(name for name in _VOUCHED if getattr(self, name))
        object.__setattr__(self, "_passes", self.projection.passes(vouched))

    def project(self, context: Context, ip: str | None, api_key_id: str | None) -> Context:
        """Return what the policy sees; the context itself when that is all of it."""
        if not isinstance(context, dict):
            # Whoever disregards the types hears of it from the question.
            return context  # type: ignore[unreachable]
        adds = (self.ip and ip is not None) or (self.api_key_id and api_key_id is not None)
        if not adds and self._passes(context):
            return context
        seen = self.projection(context)
        if self.ip:
            seen = with_vouched(seen, "ip", ip)
        if self.api_key_id:
            seen = with_vouched(seen, "api_key_id", api_key_id)
        return seen


@dataclass(frozen=True, slots=True)
class PolicyFile:
    """A policy file that was read, or what applies without one.

    Attributes:
        table: How sensitive actions are.
        rules: By name of the policy; a policy that is not among them sees the caller's context as
            it is.
        revision: Digest of the file's content. Decisions made under another one are not valid.
        path: Where it was read; None for the built-in rules.
    """

    table: SensitivityTable = BUILT_IN_TABLE
    rules: Mapping[str, PolicyRule] = field(default_factory=lambda: MappingProxyType({}))
    revision: str = "built-in"
    path: Path | None = None

    def sensitivity(self, action: str) -> Sensitivity:
        """Return how sensitive an action is."""
        return self.table.of(action)

    def ttl(self, action: str, tiers: TtlTiers) -> int:
        """Return the longest time to keep a decision about an action, in seconds."""
        sensitivity = self.table.of(action)
        if sensitivity is _LOW:
            return tiers.low
        return tiers.medium if sensitivity is _MEDIUM else tiers.high

    def cacheable(self, policy: str) -> bool:
        """Tell whether decisions of a policy may be kept."""
        rule = self.rules.get(policy)
        return rule is None or rule.cacheable

    def project(
        self, policy: str, context: Context, ip: str | None, api_key_id: str | None
    ) -> Context:
        """Return the context that goes into both the evaluator's input and the key.

        Args:
            policy: Who decides.
            context: The caller's; never changed.
            ip: The request's address.
            api_key_id: The api key in use.

        Returns:
            A new context, or the same object when the policy sees all of it and nothing else.
        """
        rule = self.rules.get(policy)
        return context if rule is None else rule.project(context, ip, api_key_id)

    def check(self, policies: Iterable[str]) -> None:
        """Refuse rules for policies that are not served.

        Args:
            policies: The names in ``SARK_POLICIES``.

        Raises:
            ConfigurationError: There is one.
        """
        served = tuple(policies)
        for name, rule in self.rules.items():
            if name not in served:
                place = where(self.path or Path("policy file"), rule.line)
                raise ConfigurationError(
                    f"{place}: {spell(('policies', name))}: got a policy that is not in "
                    f"SARK_POLICIES, expected one of: {', '.join(served)}"
                )


def read_policy_file(path: Path | None) -> PolicyFile:
    """Read a policy file.

    Args:
        path: The value of ``SARK_POLICY_FILE``; None for what applies without one.

    Raises:
        ConfigurationError: It cannot be read, or something in it is wrong.
    """
    if path is None:
        return PolicyFile()
    file = TomlFile(path)
    file.refuse_unknown((), file.document, _TABLES)
    table = BUILT_IN_TABLE
    if "sensitivity" in file.document:
        table = _sensitivity(file, ("sensitivity",), file.document["sensitivity"])
    policies = file.table(("policies",), file.document.get("policies", {}))
    rules = {name: _rule(file, ("policies", name), value) for name, value in policies.items()}
    revision = sha256(file.content).hexdigest()[:REVISION_CHARACTERS]
    return PolicyFile(table, MappingProxyType(rules), revision, path)


def _sensitivity(file: TomlFile, key: KeyPath, value: object) -> SensitivityTable:
    table = file.table(key, value)
    file.refuse_unknown(key, table, _TIERS)
    places: dict[str, str] = {}
    for tier in table:
        tier_key = (*key, tier)
        for index, pattern in enumerate(file.array(tier_key, table[tier], "an array of patterns")):
            if not isinstance(pattern, str) or not is_pattern(pattern):
                file.refuse(tier_key, show(pattern), EXPECTED_PATTERN, index)
            if pattern in places:
                came = f"{show(pattern)}, which is {places[pattern]} already"
                file.refuse(tier_key, came, "each pattern once", index)
            places[pattern] = f"{tier}[{index}]"
    return SensitivityTable(**{tier: tuple(patterns) for tier, patterns in table.items()})


def _rule(file: TomlFile, key: KeyPath, value: object) -> PolicyRule:
    table = file.table(key, value)
    file.refuse_unknown(key, table, _RULE)
    flags = {name: file.flag((*key, name), table[name]) for name in _FLAGS if name in table}
    vouched = frozenset(name for name in _VOUCHED if flags.get(name))
    return PolicyRule(_projection(file, key, table, vouched), line=file.line(key), **flags)


def _projection(
    file: TomlFile, key: KeyPath, table: dict[str, Any], vouched: frozenset[str]
) -> Projection:
    given = [name for name in ("exclude_context", "include_context") if name in table]
    if not given:
        return Everything()
    if len(given) > 1:
        second = max(given, key=lambda name: file.line((*key, name)) or 0)
        came = f"{second} beside {given[0] if second == given[1] else given[1]}"
        file.refuse((*key, second), came, "one of the two")
    paths = _paths(file, (*key, given[0]), table[given[0]], vouched)
    return Without(paths) if given[0] == "exclude_context" else Only(paths)


def _paths(
    file: TomlFile, key: KeyPath, value: object, vouched: frozenset[str]
) -> tuple[FieldPath, ...]:
    paths: list[FieldPath] = []
    for index, spelled in enumerate(file.array(key, value, "an array of context fields")):
        path = _path(spelled)
        if path is None:
            file.refuse(key, show(spelled), EXPECTED_FIELD, index)
        for other, before in enumerate(paths):
            if path[: len(before)] == before[: len(path)]:
                came = f"{show(spelled)}, which overlaps with {key[-1]}[{other}]"
                file.refuse(key, came, "each field once", index)
        if path[0] in vouched:
            came = f"{show(spelled)} beside {path[0]} = true"
            file.refuse(key, came, "no field that the service itself sets", index)
        paths.append(path)
    return tuple(paths)


def _path(spelled: object) -> FieldPath | None:
    """Read the path of a field; None when it is none."""
    if isinstance(spelled, list):
        names = all(isinstance(name, str) for name in spelled)
        return tuple(spelled) if spelled and names else None
    if not isinstance(spelled, str) or "*" in spelled:
        return None
    path = tuple(spelled.split("."))
    return path if all(path) else None

"""The policy file: sensitivity by patterns, what a policy sees of a context, errors with lines.

What a policy sees is also what the key is made of, so the properties below are about both.
"""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Iterator
from dataclasses import FrozenInstanceError
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import perf_counter
from typing import Any
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sark.errors import ConfigurationError, InvalidRequestError
from sark.policy import Question, Sensitivity, TtlTiers
from sark.policy.policy_file import PolicyFile, PolicyRule, read_policy_file
from sark.policy.projection import Everything, FieldPath, Only, Projection, Without
from sark.policy.sensitivity_table import (
    BUILT_IN_TABLE,
    REMEMBERED_ACTIONS,
    SensitivityTable,
    is_pattern,
)
from sark.toml_file import MAX_FILE_BYTES
from sark.toml_lines import TomlLines

ROOT = Path(__file__).parents[2]
HIGH, MEDIUM, LOW = Sensitivity.HIGH, Sensitivity.MEDIUM, Sensitivity.LOW
TIERS = TtlTiers(high=3, medium=5, low=7)


def read(folder: Path, text: str) -> PolicyFile:
    path = folder / "policy.toml"
    path.write_text(text)
    return read_policy_file(path)


def refusal(folder: Path, text: str | bytes) -> str:
    """The one line that a file is refused with, from the line's number on."""
    path = folder / "policy.toml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ConfigurationError) as caught:
        read_policy_file(path)
    message = str(caught.value)
    assert message.isprintable(), "one line, fit for a terminal"
    assert message.startswith(f"{path}:")
    return message.removeprefix(f"{path}:")


def one_rule(projection: Projection | None = None, **flags: bool) -> PolicyFile:
    return PolicyFile(rules={"authz": PolicyRule(projection or Everything(), **flags)})


def key(context: Any) -> bytes:
    return Question.ask("authz", "u", "server:read", "r", context).digest


# Sensitivity

SEGMENTS = st.text("ab", max_size=3)
ACTIONS = st.lists(SEGMENTS, min_size=1, max_size=5).map(":".join) | st.text(max_size=12)
PATTERNS = st.lists(
    st.just("*") | st.text("ab*", min_size=1, max_size=4), min_size=1, max_size=5
).map(":".join)
TABLES = st.lists(PATTERNS.filter(is_pattern), max_size=5).map(tuple)


def fits(pattern: list[str], action: list[str]) -> bool:
    """What a pattern means, as documented and without regard to time."""
    if not pattern:
        return not action
    first, *rest = pattern
    if first == "*":
        return any(fits(rest, action[taken:]) for taken in range(1, len(action) + 1))
    return bool(action) and segment_fits(first, action[0]) and fits(rest, action[1:])


def segment_fits(pattern: str, segment: str) -> bool:
    if not pattern:
        return not segment
    if pattern[0] == "*":
        return any(segment_fits(pattern[1:], segment[n:]) for n in range(len(segment) + 1))
    return segment[:1] == pattern[0] and segment_fits(pattern[1:], segment[1:])


def any_fits(patterns: tuple[str, ...], action: str) -> bool:
    return any(fits(pattern.split(":"), action.split(":")) for pattern in patterns)


@given(TABLES, TABLES, TABLES, ACTIONS)
@example((), (), ("*:a:*:b",), ":a:a:b")
@example((), (), ("*:*",), "a")
@example((), (), ("a*a*b",), "aab")
@example((), (), ("a*a",), "a")
def test_the_most_sensitive_match_counts_and_no_match_is_high(
    high: tuple[str, ...], medium: tuple[str, ...], low: tuple[str, ...], action: str
) -> None:
    if any_fits(high, action):
        expected = HIGH
    elif any_fits(medium, action):
        expected = MEDIUM
    else:
        expected = LOW if any_fits(low, action) else HIGH
    file = PolicyFile(SensitivityTable(high, medium, low))
    for _ in range(2):
        assert file.sensitivity(action) is expected
    assert file.ttl(action, TIERS) == {HIGH: 3, MEDIUM: 5, LOW: 7}[expected]


@pytest.mark.parametrize(
    ("pattern", "action", "matches"),
    [
        ("*:read", "server:read", True),
        ("*:read", "org:team:server:read", True),
        ("*:read", ":read", True),
        ("*:read", "read", False),
        ("*:read", "server:READ", False),
        ("*:read", "server:read\n", False),
        ("*:read", "server:readonly", False),
        ("a:*", "a:", True),
        ("a:*", "a", False),
        ("a:*:c", "a:c", False),
        ("a:*:c", "a::c", True),
        ("a:*:c", "a:b:b\n:c", True),
        ("s3:Get*", "s3:Get", True),
        ("s3:Get*", "s3:GetObject", True),
        ("s3:Get*", "s3:GetObject:acl", False),
        ("s3:*Tag*", "s3:GetTagging", True),
        ("a*b*c", "axbxc", True),
        ("a*b*c", "a:bc", False),
        ("*", "", True),
        ("*", "a:b", True),
        ("a.b", "axb", False),
        ("a|b", "a", False),
        ("(a)+", "aa", False),
        ("caf\u00e9", "cafe\u0301", False),
    ],
)
def test_patterns(pattern: str, action: str, *, matches: bool) -> None:
    assert is_pattern(pattern)
    table = SensitivityTable(low=(pattern,))
    assert (table.of(action) is LOW) is matches


@given(ACTIONS | st.sampled_from(["server", "admin", "admin:users", "a:b"]), st.data())
def test_the_built_in_table_goes_by_the_verb(scope: str, data: st.DataObject) -> None:
    low = {"read", "list", "get", "view", "describe", "search", "head"}
    medium = {"write", "delete", "create", "update", "edit", "upload", "invoke"}
    verb = data.draw(st.sampled_from(sorted(low | medium)) | st.text(max_size=5))
    action = f"{scope}:{verb}"
    last = action.rpartition(":")[2]
    expected = LOW if last in low else MEDIUM if last in medium else HIGH
    if action.startswith("admin:"):
        expected = HIGH
    assert PolicyFile().sensitivity(action) is expected
    assert PolicyFile().sensitivity(action.replace(":", "")) is HIGH


def test_the_documentation_lists_the_built_in_table() -> None:
    text = (ROOT / "docs" / "caching.md").read_text()
    (line,) = re.findall(r"^The built-in table: .*", text, re.MULTILINE)
    quoted = re.findall(r"`([^`]+)`", line)
    table = BUILT_IN_TABLE
    verbs = [pattern.removeprefix("*:") for pattern in (*table.medium, *table.low)]
    assert quoted == [*table.high, *verbs]


def test_no_action_makes_a_match_slow() -> None:
    patterns = ("*:*:*:*:*:a*a*a*a*b:*:*:c", *(f"*:a*b*:*:{n}:*" for n in range(20)))
    table = SensitivityTable(high=patterns, low=patterns)
    actions = (":" * 256, ":a" * 128, "a" * 256, ":aaaaaaaaaa" * 23, "a:" * 128)
    started = perf_counter()
    for action in actions:
        table.of(action)
    assert perf_counter() - started < 1, "backtracking would take hours"


def test_what_is_remembered_is_bounded() -> None:
    table = SensitivityTable(low=("*:read",))
    info: Any = getattr(table.of, "cache_info")  # noqa: B009 - a function to the type checker
    for number in range(REMEMBERED_ACTIONS + 10):
        assert table.of(f"{number}:read") is LOW
    assert info().currsize == REMEMBERED_ACTIONS


# What a policy sees

NAMES = st.sampled_from(["a", "b", "c", "ip", "a.b"])
SCALARS = st.sampled_from([None, True, 0, 1, 1.5, "", "x"])
PATHS = st.lists(
    st.lists(NAMES, min_size=1, max_size=4).map(tuple), min_size=1, max_size=4, unique=True
)


def json_values(levels: int) -> st.SearchStrategy[Any]:
    if levels == 0:
        return SCALARS
    inner = json_values(levels - 1)
    return SCALARS | st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3)


CONTEXTS = st.dictionaries(NAMES, json_values(4), max_size=4)


def disjoint(paths: list[FieldPath]) -> list[FieldPath]:
    """Drop the paths that lie within another one, which a file may not have."""
    return [
        path
        for path in paths
        if not any(path != other and path[: len(other)] == other for other in paths)
    ]


def leaves(value: Any, at: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Find where the scalars and the empty containers are."""
    items: Any = value.items() if isinstance(value, dict) else ()
    items = enumerate(value) if isinstance(value, list) else items
    found = [leaf for name, item in items for leaf in leaves(item, (*at, name))]
    yield from found or [at]


def replaced(context: Any, at: tuple[str | int, ...], by: Any) -> Any:
    if not at:
        return by
    changed = copy.copy(context)
    changed[at[0]] = replaced(context[at[0]], at[1:], by)
    return changed


def names_of(at: tuple[str | int, ...]) -> FieldPath:
    return tuple(name for name in at if isinstance(name, str))


def leads(paths: list[FieldPath], names: FieldPath) -> bool:
    return any(names[: len(path)] == path for path in paths)


def cut(value: Any, paths: list[FieldPath]) -> Any:
    """What excluding means, in the plainest way."""
    if isinstance(value, list):
        return [cut(item, paths) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        name: cut(item, [path[1:] for path in paths if path[0] == name])
        for name, item in value.items()
        if (name,) not in paths
    }


@given(CONTEXTS, PATHS)
@example({"a": [{"b": 1}, [{"b": 2}]]}, [("a", "b")])
@example({"a": {"b": 1}}, [("a", "b")])
@example({"a.b": 1, "a": 1}, [("a", "b")])
def test_no_excluded_field_gets_through_and_all_others_do(
    context: dict[str, Any], paths: list[FieldPath]
) -> None:
    paths = disjoint(paths)
    before = copy.deepcopy(context)
    seen = one_rule(Without(paths)).project("authz", context, None, None)
    assert context == before, "the caller's context is never changed"
    assert seen == cut(context, paths)
    assert not any(leads(paths, names_of(leaf)) for leaf in leaves(seen))
    assert (seen is context) is (seen == context)


@given(CONTEXTS, PATHS)
@example({"a": [{"b": 1}, [{"b": 2}], 3, {"c": 4}]}, [("a", "b")])
@example({"a": {"c": 1}}, [("a", "b")])
@example({"a": 1}, [("a",)])
def test_only_included_fields_get_through(context: dict[str, Any], paths: list[FieldPath]) -> None:
    paths = disjoint(paths)
    before = copy.deepcopy(context)
    seen = one_rule(Only(paths)).project("authz", context, None, None)
    assert context == before
    if seen:
        assert all(leads(paths, names_of(leaf)) for leaf in leaves(seen))

    def values(of: Any) -> list[Any]:
        found = []
        for leaf in leaves(of):
            names = names_of(leaf)
            if leads(paths, names):
                value = of
                for step in leaf:
                    value = value[step]
                found.append((names, repr(value)))
        return sorted(found)

    assert values(seen) == values(context), "all of them do"
    if context.keys() <= {path[0] for path in paths if len(path) == 1}:
        assert seen is context


@given(CONTEXTS.filter(bool), PATHS, st.booleans(), st.data())
def test_requests_share_a_key_exactly_when_they_differ_in_nothing_the_policy_sees(
    context: dict[str, Any], paths: list[FieldPath], including: bool, data: st.DataObject
) -> None:
    paths = disjoint(paths)
    file = one_rule(Only(paths) if including else Without(paths))
    leaf = data.draw(st.sampled_from(sorted(leaves(context), key=repr)))
    other = replaced(context, leaf, "something else")
    seen = [file.project("authz", each, None, None) for each in (context, other)]
    visible = leads(paths, names_of(leaf)) is including
    assert (key(seen[0]) != key(seen[1])) is visible


@given(CONTEXTS, PATHS)
def test_an_absent_field_has_the_key_of_an_excluded_one(
    context: dict[str, Any], paths: list[FieldPath]
) -> None:
    paths = disjoint(paths)
    file = one_rule(Without(paths))
    without = cut(context, paths)
    assert key(file.project("authz", context, None, None)) == key(without)
    assert file.project("authz", without, None, None) is without


@given(CONTEXTS, st.none() | st.sampled_from(["192.0.2.1", "k"]), st.booleans(), st.booleans())
def test_what_the_service_vouches_for_cannot_be_forged(
    context: dict[str, Any], vouched: str | None, for_ip: bool, excluding: bool
) -> None:
    name = "ip" if for_ip else "api_key_id"
    context = {**context, "api_key_id": context["c"]} if "c" in context else context
    before = copy.deepcopy(context)
    file = one_rule(Without([("a",)]) if excluding else Only([("b",)]), **{name: True})
    ip, api_key_id = (vouched, "other") if for_ip else ("other", vouched)
    seen = file.project("authz", context, ip, api_key_id)
    assert context == before
    assert seen.get(name) == vouched
    assert (name in seen) is (vouched is not None)
    claimed = file.project("authz", {**context, name: "203.0.113.9"}, ip, api_key_id)
    assert key(claimed) == key(seen)
    other = file.project("authz", context, f"{ip}0", f"{api_key_id}0")
    assert key(other) != key(seen)


@pytest.mark.parametrize("name", ["ip", "api_key_id"])
@pytest.mark.parametrize("projection", [Everything(), Without([("a",)]), Only([("b",)])])
@pytest.mark.parametrize("context", [{}, {"b": 1}, {"a": 2}, {"a": 2, "b": 1}])
@pytest.mark.parametrize("claimed", [None, "192.0.2.1", "", {"b": 1}, False])
@pytest.mark.parametrize("vouched", [None, "192.0.2.1", ""])
def test_the_service_alone_sets_what_it_vouches_for(
    name: str, projection: Projection, context: dict[str, Any], claimed: Any, vouched: str | None
) -> None:
    file = one_rule(projection, **{name: True})
    given = context if claimed is None else {**context, name: claimed}
    request = {"ip": "other", "api_key_id": "other", name: vouched}
    seen = file.project("authz", given, request["ip"], request["api_key_id"])
    plain = one_rule(projection).project("authz", context, None, None)
    assert seen == (plain if vouched is None else {**plain, name: vouched})


def test_an_included_field_is_not_let_through_when_the_service_sets_it() -> None:
    file = one_rule(Only([("ip",)]), ip=True)
    assert file.project("authz", {"ip": "203.0.113.9"}, None, None) == {}


def test_without_the_flag_the_callers_own_field_is_a_field_like_others() -> None:
    context: dict[str, Any] = {"ip": "192.0.2.1"}
    assert one_rule().project("authz", context, "198.51.100.1", "k") is context


@given(CONTEXTS)
def test_nothing_applies_to_a_policy_that_the_file_does_not_name(context: dict[str, Any]) -> None:
    for file in (PolicyFile(), one_rule(Without([("a",)]), ip=True)):
        assert file.project("tools", context, "192.0.2.1", "k") is context
        assert file.cacheable("tools")


@pytest.mark.parametrize("projection", [Everything(), Without([("a", "b")]), Only([("a", "b")])])
@pytest.mark.parametrize("context", [None, 5, "ip", [], [{"a": 1}], {1: 2}, {"a": {1: {}}}])
def test_what_is_no_context_is_refused_by_the_question(
    projection: Projection, context: Any
) -> None:
    file = one_rule(projection, ip=True)
    seen = file.project("authz", context, "192.0.2.1", None)
    if not isinstance(context, dict):
        assert seen is context
    elif not isinstance(projection, Only):
        with pytest.raises(InvalidRequestError):
            key(seen)


@pytest.mark.parametrize("projection", [Without([("a",) * 50]), Only([("a",) * 50])])
@pytest.mark.parametrize("wrapped", [lambda inner: {"a": inner}, lambda inner: [inner]])
def test_what_is_too_deep_to_cut_is_refused_by_the_question(
    projection: Projection, wrapped: Any
) -> None:
    value: Any = {}
    for _ in range(20_000):
        value = wrapped(value)
    seen = one_rule(projection).project("authz", {"a": value}, None, None)
    with pytest.raises(InvalidRequestError, match="nested deeper"):
        key(seen)


def test_an_excluded_field_may_hold_anything() -> None:
    context: dict[str, Any] = {"a": math.nan, "b": 1}
    seen = one_rule(Without([("a",)])).project("authz", context, None, None)
    assert key(seen) == key({"b": 1})


# Reading

FILE = """\
[sensitivity]
high = ["*:grant"]
low = ["*:read", "s3:Get*"]

[policies.authz]
exclude_context = ["request_id", "trace.id", ["trace", "span.id"]]
ip = true
cacheable = false

[policies.tools]
include_context = ["environment"]
api_key_id = true
"""


def test_a_file_is_read(tmp_path: Path) -> None:
    file = read(tmp_path, FILE)
    assert file.path == tmp_path / "policy.toml"
    assert file.table == SensitivityTable(high=("*:grant",), low=("*:read", "s3:Get*"))
    assert file.sensitivity("admin:read") is LOW, "the built-in table is replaced as a whole"
    assert list(file.rules) == ["authz", "tools"]
    authz, tools = file.rules["authz"], file.rules["tools"]
    assert isinstance(authz.projection, Without)
    assert authz.projection.paths == (("request_id",), ("trace", "id"), ("trace", "span.id"))
    assert (authz.ip, authz.api_key_id, authz.cacheable, authz.line) == (True, False, False, 5)
    assert isinstance(tools.projection, Only)
    assert tools.projection.paths == (("environment",),)
    assert (tools.ip, tools.api_key_id, tools.cacheable, tools.line) == (False, True, True, 10)
    assert (file.cacheable("authz"), file.cacheable("tools")) == (False, True)
    file.check(("tools", "authz", "more"))


def test_what_was_read_is_frozen(tmp_path: Path) -> None:
    file = read(tmp_path, FILE)
    with pytest.raises(FrozenInstanceError):
        file.revision = "x"  # type: ignore[misc]
    with pytest.raises(TypeError):
        file.rules["x"] = PolicyRule()  # type: ignore[index]


@pytest.mark.parametrize(
    "text", ["", "# nothing\n", "[policies]\n", "[policies.authz]\n", "[policies]\nauthz = {}\n"]
)
def test_what_is_left_out_is_as_without_a_file(tmp_path: Path, text: str) -> None:
    context: dict[str, Any] = {"ip": "x", "a": 1}
    file = read(tmp_path, text)
    assert file.table is BUILT_IN_TABLE
    assert file.project("authz", context, "192.0.2.1", "k") is context
    assert file.cacheable("authz")


def test_an_empty_table_makes_everything_sensitive(tmp_path: Path) -> None:
    assert read(tmp_path, "[sensitivity]\n").sensitivity("server:read") is HIGH


def test_no_fields_are_included_by_an_empty_list(tmp_path: Path) -> None:
    file = read(tmp_path, "[policies.authz]\ninclude_context = []\n")
    assert file.project("authz", {"a": 1}, None, None) == {}


def test_the_revision_has_128_bits(tmp_path: Path) -> None:
    assert re.fullmatch("[0-9a-f]{32}", read(tmp_path, FILE).revision)


def test_any_change_of_the_file_is_another_revision(tmp_path: Path) -> None:
    texts = ("", "# a", "[policies]", FILE, FILE.replace("true", "false"))
    revisions = {read(tmp_path, text).revision for text in texts}
    assert len(revisions | {read_policy_file(None).revision}) == len(texts) + 1
    assert read(tmp_path, FILE).revision == read(tmp_path, FILE).revision


def test_no_file_is_the_built_in_rules() -> None:
    assert read_policy_file(None) == PolicyFile()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("x = 1", "1: x: got an unknown key, expected one of: sensitivity, policies"),
        (
            "\n[policy.authz]\nip = true",
            "2: policy: got an unknown table, expected one of: sensitivity, policies",
        ),
        ("sensitivity = 5", "1: sensitivity: got 5, expected a table"),
        ("#\npolicies = []", "2: policies: got [], expected a table"),
        ("[[policies]]\nip = true", "1: policies: got [{'ip': True}], expected a table"),
        ("[policies]\nauthz = true", "2: policies.authz: got true, expected a table"),
        ("policies.authz = 'x'", "1: policies.authz: got 'x', expected a table"),
        (
            '[policies."a b\\n"]\n\nx = 1',
            (
                r"3: policies.'a b\n'.x: got an unknown key, expected one of: exclude_context, "
                "include_context, ip, api_key_id, cacheable"
            ),
        ),
        (
            "[sensitivity]\nhigh = []\n[sensitivity.critical]\n",
            "3: sensitivity.critical: got an unknown table, expected one of: high, medium, low",
        ),
        ("[sensitivity]\nlow = 'a'", "2: sensitivity.low: got 'a', expected an array of patterns"),
        (
            "[sensitivity]\nlow = ['*:a',\n\n'*:b', # '*:c'\n '*:a']",
            "5: sensitivity.low[2]: got '*:a', which is low[0] already, expected each pattern once",
        ),
        (
            "[sensitivity]\nlow = [\n'a',\n]\nhigh = [\n  'b', 'a',\n]",
            "6: sensitivity.high[1]: got 'a', which is low[0] already, expected each pattern once",
        ),
        (
            "sensitivity = { low = ['a', 'a'] }",
            "1: sensitivity.low[1]: got 'a', which is low[0] already, expected each pattern once",
        ),
        (
            "[policies]\nauthz.ip = 'yes'",
            "2: policies.authz.ip: got 'yes', expected true or false",
        ),
        (
            "[policies.authz]\n\ncacheable = 1",
            "3: policies.authz.cacheable: got 1, expected true or false",
        ),
        (
            "[policies.authz]\nexclude_context = 'a'",
            "2: policies.authz.exclude_context: got 'a', expected an array of context fields",
        ),
        (
            "[policies.authz]\nexclude_context = []\n\ninclude_context = []",
            (
                "4: policies.authz.include_context: got include_context beside exclude_context, "
                "expected one of the two"
            ),
        ),
        (
            "[policies.authz]\ninclude_context = []\nexclude_context = []",
            (
                "3: policies.authz.exclude_context: got exclude_context beside include_context, "
                "expected one of the two"
            ),
        ),
        (
            "[policies.authz]\nexclude_context = ['a.b',\n'a']",
            (
                "3: policies.authz.exclude_context[1]: got 'a', which overlaps with "
                "exclude_context[0], expected each field once"
            ),
        ),
        (
            "[policies.authz]\ninclude_context = [\n'x',\n['a', 'b'],\n'a.b.c']",
            (
                "5: policies.authz.include_context[2]: got 'a.b.c', which overlaps with "
                "include_context[1], expected each field once"
            ),
        ),
        (
            "[policies.authz]\nip = true\nexclude_context = ['ip']",
            (
                "3: policies.authz.exclude_context[0]: got 'ip' beside ip = true, expected no "
                "field that the service itself sets"
            ),
        ),
        (
            "[policies.authz]\napi_key_id = true\ninclude_context = [['api_key_id', 'x']]",
            (
                "3: policies.authz.include_context[0]: got ['api_key_id', 'x'] beside "
                "api_key_id = true, expected no field that the service itself sets"
            ),
        ),
        (b"a = 1\n# \xff\n", "2: got the byte 0xff, expected UTF-8"),
        ("a = " + "[" * 50_000, " got no TOML (values nested too deeply), expected TOML"),
        (
            "[policies.authz]\nip = '" + "x" * 1000 + "\u202e'",
            f"2: policies.authz.ip: got '{'x' * 79}..., expected true or false",
        ),
        (
            "[policies.authz]\nip = '\u202e'",
            r"2: policies.authz.ip: got '\u202e', expected true or false",
        ),
    ],
)
def test_mistakes_are_told_with_their_line(tmp_path: Path, text: str | bytes, line: str) -> None:
    assert refusal(tmp_path, text) == line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a = 1\nb = \n", "2: got no TOML (Invalid value at column 5), expected TOML"),
        ("a = 1\n\na = 2\nb = 3", "3: got no TOML (Cannot overwrite a value at column "),
        ("[a]\n[b]\n[a]\n", "3: got no TOML (Cannot declare ('a',) twice at column "),
        ("a = [\n\n", "3: got no TOML ("),
        ("a = 'x", "1: got no TOML ("),
        ("a = 'x\r\n'", "1: got no TOML ("),
        ("\ufeffa = 1", "1: got no TOML ("),
        ("a = \x07", "1: got no TOML ("),
    ],
)
def test_what_is_no_toml_is_told_with_the_line_of_the_parser(
    tmp_path: Path, text: str, line: str
) -> None:
    told = refusal(tmp_path, text)
    assert told.startswith(line)
    assert told.endswith("), expected TOML")


@pytest.mark.parametrize(
    "pattern",
    [
        '""', '" "', '"a b"', '"a\\n"', '":a"', '"a:"', '"a::b"', '"a**"', '"**:a"', '"a?"',
        '"[ab]"', '"{a,b}"', '"a\\\\b"', '"\\u202e"', f'"{"a" * 257}"', f'"{"é" * 129}"', "5",
        "true", "[]",
    ],
)  # fmt: skip
def test_what_is_no_pattern_is_refused(tmp_path: Path, pattern: str) -> None:
    text = f"[sensitivity]\nmedium = [\n  '*:write',\n  {pattern},\n]\n"
    line = refusal(tmp_path, text)
    assert line.startswith("4: sensitivity.medium[1]: got ")
    assert ", expected an action in which * may stand for" in line


@pytest.mark.parametrize("path", ["''", "'.'", "'a.'", "'a..b'", "'*'", "'a.*'", "[]", "[1]", "5"])
@pytest.mark.parametrize("name", ["exclude_context", "include_context"])
def test_what_is_no_field_is_refused(tmp_path: Path, path: str, name: str) -> None:
    line = refusal(tmp_path, f"[policies.authz]\n{name} = ['x',\n{path}]\n")
    assert line.startswith(f"3: policies.authz.{name}[1]: got ")
    assert ", expected the path of a context field" in line


def test_rules_for_policies_that_are_not_served_are_refused(tmp_path: Path) -> None:
    file = read(tmp_path, FILE)
    with pytest.raises(ConfigurationError) as caught:
        file.check(("authz", "other"))
    assert str(caught.value) == (
        f"{tmp_path / 'policy.toml'}:10: policies.tools: got a policy that is not in "
        "SARK_POLICIES, expected one of: authz, other"
    )
    PolicyFile().check(())


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_policy_file(tmp_path / "none.toml")
    assert str(caught.value) == (
        f"{tmp_path}/none.toml: got 'No such file or directory', expected a readable file"
    )
    with pytest.raises(ConfigurationError, match="Is a directory"):
        read_policy_file(tmp_path)
    assert refusal(tmp_path, "#" * (MAX_FILE_BYTES + 1)) == (
        f" got a larger file, expected at most {MAX_FILE_BYTES} bytes"
    )
    read(tmp_path, "#" * MAX_FILE_BYTES)
    with pytest.raises(ConfigurationError) as caught:
        read_policy_file(tmp_path / "a\nb")
    assert str(caught.value).isprintable()


# Lines

FILLERS = ("", "# low = [", "  ", "# [table]", '# """')
# A value, and the lines of an array's items relative to its first, if it is one.
VALUES: tuple[tuple[str, tuple[int, ...]], ...] = (
    ("1", ()),
    ("'x = 2'", ()),
    ("[1, 2]", (0, 0)),
    ('"""\n[a]\nk0 = 1\n"""', ()),
    ("'''\n]\n'''", ()),
    ("[ # ]\n  1, # [\n\n  '''\n\n''', 3 ]", (1, 5, 5)),
    ("[\n  [1,\n   2],\n  '[',\n]", (2, 3)),
    ("{ x = 1, y = [1, 2] }", ()),
    ("2026-01-01 00:00:00", ()),
)
SPELLINGS = ("{}", ' "{}" ', "'{}'", "{}.z", '\t{} . "q.r"')
HEADERS = ("[{}]", "  [ {} ] # [x]", '["{}"]', "[{}.sub]")


@given(
    st.lists(
        st.tuples(
            st.lists(st.sampled_from(FILLERS), max_size=2),
            st.sampled_from(HEADERS) | st.none(),
            st.sampled_from(SPELLINGS),
            st.sampled_from(VALUES),
        ),
        max_size=6,
    ),
    st.sampled_from(["\n", "\r\n"]),
)
def test_keys_are_found_where_they_stand(statements: Any, newline: str) -> None:
    lines: list[str] = []
    expected: dict[tuple[tuple[str, ...], int | None], int] = {}
    table: tuple[str, ...] = ()
    for number, (fillers, header, spelling, (value, items)) in enumerate(statements):
        lines += fillers
        if header:
            table = (f"t{number}", "sub") if "sub" in header else (f"t{number}",)
            lines.append(header.format(f"t{number}"))
            expected[table, None] = len(lines)
        name = f"k{number}"
        below = {"{}.z": ("z",), '\t{} . "q.r"': ("q.r",)}.get(spelling, ())
        first = len(lines) + 1
        lines += f"{spelling.format(name)} = {value}".split("\n")
        expected[(*table, name), None] = first
        expected[(*table, name, *below), None] = first
        for item, offset in enumerate(items):
            expected[(*table, name, *below), item] = first + offset
        if value.startswith("{"):
            expected[(*table, name, *below, "y"), 1] = first
    found = TomlLines(newline.join(lines))
    assert {place: found.of(*place) for place in expected} == expected


def test_where_a_line_is_not_known_the_nearest_is_told() -> None:
    lines = TomlLines("\n[a]\nb = { c = [\n1,\n2\n] }\n")
    assert lines.of(("a", "x", "y")) == 2
    assert lines.of(("a", "b", "c"), 1) == 3, "arrays in inline tables are not looked into"
    assert lines.of(("x",)) is None
    assert lines.of(()) is None


# The example and the documentation


@pytest.fixture(scope="module")
def requests() -> list[dict[str, Any]]:
    lines = (ROOT / "examples" / "requests.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_the_example_suits_the_sample_policies(requests: list[dict[str, Any]]) -> None:
    file = read_policy_file(ROOT / "examples" / "policy.toml")
    file.check(("authz",))
    assert (file.table.medium, file.table.low) == (BUILT_IN_TABLE.medium, BUILT_IN_TABLE.low)
    for request in requests:
        action, context = request["action"], request["context"]
        assert file.sensitivity(action) is PolicyFile().sensitivity(action)
        assert file.project("authz", context, "192.0.2.1", "k") is context


@pytest.mark.parametrize("action", ["server:grant", "a:b:revoke", "admin:read", "x", "x:read"])
def test_the_example_says_the_same_as_the_built_in_table(action: str) -> None:
    file = read_policy_file(ROOT / "examples" / "policy.toml")
    assert file.sensitivity(action) is PolicyFile().sensitivity(action)


def test_the_example_stays_readable_with_its_comments_taken_away(tmp_path: Path) -> None:
    text = (ROOT / "examples" / "policy.toml").read_text()
    shown = re.sub(r"^# (include_context = .*)$", r"\1", text, flags=re.MULTILINE)
    assert shown != text
    assert "include_context beside exclude_context" in refusal(tmp_path, shown)
    file = read(tmp_path, re.sub(r"^exclude_context.*\n", "", shown, flags=re.MULTILINE))
    assert isinstance(file.rules["authz"].projection, Only)


def hit_ratio(
    requests: list[dict[str, Any]], file: PolicyFile, *, added: bool, tiers: TtlTiers
) -> float:
    """Ask all requests within an hour, of a cache that forgets nothing before its time."""
    expires: dict[bytes, float] = {}
    hits = 0
    start = datetime(2026, 1, 5, 9, tzinfo=UTC)
    for number, request in enumerate(requests):
        now = 3600 * number / len(requests)
        context = dict(request["context"])
        if added:
            minute = (start + timedelta(seconds=now)).strftime("%Y-%m-%dT%H:%MZ")
            context |= {"request_id": str(UUID(int=number)), "timestamp": minute}
        seen = file.project("authz", context, request.get("ip"), request.get("api_key_id"))
        who, action, what = request["user_id"], request["action"], request["resource"]
        digest = Question.ask("authz", who, action, what, seen).digest
        if expires.get(digest, 0) > now:
            hits += 1
        else:
            expires[digest] = now + file.ttl(action, tiers)
    return hits / len(requests)


def test_the_documented_hit_ratios_are_those_of_the_sample_requests(
    requests: list[dict[str, Any]],
) -> None:
    read_by_sample = [("break_glass",), ("environment",), ("mfa",), ("ticket",)]
    both = Without([("request_id",), ("timestamp",)])
    rows = (
        ("the requests as they are", Everything(), False),
        ("with the two fields", Everything(), True),
        ('`exclude_context = ["request_id"]`', Without([("request_id",)]), True),
        ('`exclude_context = ["request_id", "timestamp"]`', both, True),
        (
            '`include_context = ["break_glass", "environment", "mfa", "ticket"]`',
            Only(read_by_sample),
            True,
        ),
    )
    text = (ROOT / "docs" / "caching.md").read_text()
    for label, projection, added in rows:
        ratio = hit_ratio(requests, one_rule(projection), added=added, tiers=TtlTiers())
        assert f"| {label} | {ratio:.1%} |" in text
    forever = TtlTiers(3600, 3600, 3600)
    limit = hit_ratio(requests, one_rule(both), added=True, tiers=forever)
    assert f"The upper limit is {limit:.1%}" in text
    with_ip = hit_ratio(requests, one_rule(both, ip=True), added=True, tiers=forever)
    assert with_ip == limit, "every user has one address"

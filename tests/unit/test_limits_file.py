"""Limits as they are written: single ones, and the file with all that may be wrong in it."""

from __future__ import annotations

import time
from ipaddress import IPv4Network, ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sark.errors import ConfigurationError, InvalidRequestError
from sark.keyspace import Keyspace
from sark.patterns import Patterns
from sark.ratelimit import Identity, Kind, Limit, Rules, limited_ip, parse_limit
from sark.ratelimit.planner import Planner
from sark.ratelimit.rules import MAX_SELECTIONS, Listed, Rule, Selection
from sark.ratelimit.rules_file import read_rules

ROOT = Path(__file__).parents[2]
DEFAULT = Limit(1000)


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("1000/minute", Limit(1000, 60)),
        ("1/second", Limit(1, 1)),
        ("10/5 minutes", Limit(10, 300)),
        ("10/5minutes", Limit(10, 300)),
        ("3 / hour", Limit(3, 3600)),
        ("7/2 days", Limit(7, 172_800)),
        ("20/second burst 50", Limit(20, 1, "gcra", 50)),
        ("1000000000/31 days", Limit(10**9, 2_678_400)),
    ],
)
def test_a_limit_is_read_and_spelled(text: str, limit: Limit) -> None:
    assert parse_limit(text) == limit
    assert parse_limit(str(limit)) == limit


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "1000",
            "/minute",
            "-1/minute",
            "0/minute",
            "1/0 minutes",
            "1.5/minute",
            "1e3/minute",
        ),
        *("1000/fortnight", "1000 per minute", "1000000001/minute", "1/32 days", "\u0661/minute"),
        *(
            "1/minute burst 0",
            "1/minute burst",
            "1/minute burst -1",
            "1/day burst 40",
            "1/minute\n",
        ),
        *("1/month", "1/minutes/2", " 1/minute"),
    ],
)
def test_what_is_no_limit_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^got .*, expected "):
        parse_limit(text)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((5, 60, "fixed", 7), "burst for 'fixed'"),
        ((5, 60, "sliding", 7), "burst for 'sliding'"),
        ((5, 60, "leaky"), "the algorithm 'leaky'"),
        ((10**9, 60, "gcra"), "2\\^53"),
        ((0,), "0 requests"),
        ((1, 0), "window of 0 s"),
    ],
)
def test_a_limit_that_cannot_be_is_refused(arguments: tuple[Any, ...], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Limit(*arguments)


def read(folder: Path, text: str, default: Limit | None = DEFAULT) -> Rules:
    path = folder / "limits.toml"
    path.write_text(text)
    return read_rules(path, default)


def selected(rules: Rules, *kinds: Kind, **fields: str) -> dict[str, str]:
    selection = rules.select(kinds, **fields)
    return {each.policy: str(each.limit) for each in selection.applied}


RULE = '[rules.a]\nkind = "user"\nlimits = ["5/minute"]\n'
MALFORMED = [
    ("rule = 1", "1: rule: got an unknown key, expected one of: rules, costs, allow, deny"),
    ("rules = 1", "1: rules: got 1, expected a table"),
    ("[rules.A]", "1: rules.A: got 'A', expected a name of up to 32 "),
    ("[rules.user]", "1: rules.user: got 'user', expected a name of up to 32 "),
    ("[rules.a]\nlimits = []", "1: rules.a.kind: got nothing, expected a value"),
    ('[rules.a]\nkind = "user"', "1: rules.a.limits: got nothing, expected a value"),
    (
        '[rules.a]\nkind = "group"\nlimits = []',
        "2: rules.a.kind: got 'group', expected one of: user",
    ),
    (
        '[rules.a]\nkind = ["ip",\n"ip"]\nlimits = []',
        "3: rules.a.kind[1]: got 'ip' again, expected",
    ),
    ("[rules.a]\nkind = []\nlimits = []", "2: rules.a.kind: got no kind, expected"),
    (
        '[rules.a]\nkind = "ip"\nlimits = "5/minute"',
        "3: rules.a.limits: got '5/minute', expected an",
    ),
    (
        '[rules.a]\nkind = "ip"\nlimits = [5]',
        "3: rules.a.limits[0]: got 5, expected requests and a",
    ),
    (
        '[rules.a]\nkind = "ip"\nlimits = [\n"5/minute",\n"5/week"]',
        "5: rules.a.limits[1]: got '5/week'",
    ),
    (
        '[rules.a]\nkind = "ip"\nlimits = ["5/minute", "9/60 seconds"]',
        "3: rules.a.limits[1]: got a second limit for 60 s, expected one",
    ),
    (RULE + 'algorithm = "leaky"', "4: rules.a.algorithm: got 'leaky', expected one of: fixed"),
    (
        '[rules.a]\nkind = "ip"\nalgorithm = "fixed"\nlimits = ["5/minute burst 9"]',
        "4: rules.a.limits[0]: got a burst for 'fixed', expected it for gcra alone",
    ),
    (RULE + "action = []", "4: rules.a.action: got an empty array, expected a text"),
    (RULE + 'action = ["x", ""]', "4: rules.a.action[1]: got '', expected a text of 1 to 256"),
    (RULE + "path = 5", "4: rules.a.path: got 5, expected a text of 1 to 256"),
    (RULE + "tier = true", "4: rules.a.tier: got true, expected a text of 1 to 256"),
    (RULE + 'shadow = "yes"', "4: rules.a.shadow: got 'yes', expected true or false"),
    (RULE + "continue = 1", "4: rules.a.continue: got 1, expected true or false"),
    (RULE + "limit = 5", "4: rules.a.limit: got an unknown key, expected one of: kind, limits"),
    (
        RULE.replace('"user"', '["user", "ip"]') + RULE.replace("rules.a", "rules.a-user"),
        "4: rules.a-user: got a limit that is called a-user, as one of a is, expected another name",
    ),
    ("[costs]\n'x' = 0", "2: costs.x: got 0, expected a whole number from 1"),
    ("[costs]\n'x:*' = true", "2: costs.'x:*': got true, expected a whole number from 1"),
    ("[costs]\n'' = 5", "2: costs.'': got '', expected a text of 1 to 256"),
    (
        "[allow]\ngroup = []",
        "2: allow.group: got an unknown key, expected one of: user, ip, apikey",
    ),
    ("[deny]\nuser = 'x'", "2: deny.user: got 'x', expected an array, each item an id"),
    ("[deny]\nuser = ['x',\n'']", "3: deny.user[1]: got '', expected an id"),
    ("[deny]\nip = ['10.0.0.1/8']", "2: deny.ip[0]: got '10.0.0.1/8', expected an address, or a"),
    ("[deny]\nip = ['fe80::1%eth0']", "2: deny.ip[0]: got 'fe80::1%eth0', expected an address"),
    ("[deny]\nip = ['::ffff:10.0.0.1']", "2: deny.ip[0]: got '::ffff:10.0.0.1', expected an"),
    ("[rules.a", "1: got no TOML ("),
]


@pytest.mark.parametrize(("text", "message"), MALFORMED, ids=[m for _, m in MALFORMED])
def test_a_malformed_file_is_refused_with_line_and_reason(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read(tmp_path, text)
    line = str(caught.value).removeprefix(f"{tmp_path}/limits.toml:")
    assert line.isprintable()
    assert line.replace('"', "'").startswith(message), line


def test_rules_are_read_in_order_and_the_first_that_matches_decides(tmp_path: Path) -> None:
    rules = read(
        tmp_path,
        """
        [rules.export]
        kind = "user"
        action = ["report:*", "dump"]
        limits = ["1/hour"]
        continue = true
        [rules.pro]
        kind = "user"
        tier = ["pro", "gold"]
        limits = ["50/second burst 200", "9000/day"]
        [rules.free]
        kind = ["user", "apikey"]
        limits = ["5/second"]
        [rules.never]
        kind = "user"
        limits = ["1/day"]
        [rules.web]
        kind = "ip"
        path = "/v1/*"
        limits = []
        """,
    )
    free = {"free-user": "5/second"}
    pro = {"pro-1": "50/second burst 200", "pro-86400": "9000/day"}
    export = {"export": "1/hour"}
    assert selected(rules, "user") == free
    assert selected(rules, "user", tier="basic") == free
    assert selected(rules, "user", tier="pro") == pro
    assert selected(rules, "user", tier="gold", action="report:x") == export | pro
    assert selected(rules, "user", action="dump") == export | free
    assert selected(rules, "user", action="dump2") == free
    assert selected(rules, "apikey", action="dump") == {"free-apikey": "5/second"}
    assert selected(rules, "ip") == {"ip": "1000/minute"}
    assert selected(rules, "ip", path="/v2/x") == {"ip": "1000/minute"}
    assert selected(rules, "ip", path="/v1/x") == {}
    assert selected(rules, "user", "apikey") == free | {"free-apikey": "5/second"}


def test_costs_are_those_of_the_first_pattern_and_cut_to_the_limit(tmp_path: Path) -> None:
    text = RULE + '[costs]\n"report:export" = 20\n"report:*" = 3\n'
    rules = read(tmp_path, text)
    assert [rules.cost_of(action) for action in ("report:export", "report:x", "x", "")] == [
        *(20, 3, 1, 1)
    ]
    assert rules.select(("user", "ip"), "report:export").costs == (5, 20)


def test_lists_know_ids_and_networks(tmp_path: Path) -> None:
    rules = read(
        tmp_path,
        """
        [allow]
        user = ["a:b"]
        ip = ["10.0.0.0/8", "2001:db8::/32", "192.0.2.1"]
        [deny]
        apikey = ["k"]
        """,
    )
    allowed: list[Identity] = [("user", "a:b"), ("ip", "10.9.9.9"), ("ip", "::ffff:10.9.9.9")]
    allowed += [("ip", "2001:db8:1::1"), ("ip", "192.0.2.1")]
    others: list[Identity] = [("user", "a"), ("ip", "11.0.0.1"), ("ip", "192.0.2.2")]
    others += [("apikey", "k"), ("apikey", "a:b")]
    assert all(identity in rules.allow for identity in allowed)
    assert not any(identity in rules.allow for identity in others)
    assert ("apikey", "k") in rules.deny


def test_without_a_file_everybody_has_the_default() -> None:
    assert selected(read_rules(None, DEFAULT), "user", "ip") == {
        "user": "1000/minute",
        "ip": "1000/minute",
    }
    assert selected(read_rules(None, None), "user") == {}


def test_the_example_says_what_its_comments_say() -> None:
    rules = read_rules(ROOT / "examples" / "limits.toml", DEFAULT)
    assert selected(rules, "user", "apikey", action="report:export", tier="pro") == {
        "exports": "100/hour",
        "pro-1": "50/second burst 200",
        "pro-86400": "1000000/day",
        "keys": "5000/minute",
        "apikey": "1000/minute",
    }
    assert rules.cost_of("report:export") == 10
    assert ("ip", "192.0.2.7") in rules.deny


def test_what_requests_select_is_kept_within_a_bound(tmp_path: Path) -> None:
    rules = read(tmp_path, RULE.replace("limits", 'action = "x*"\nlimits'))
    kept: list[Selection] = [rules.select(("user",), f"x{n}") for n in range(MAX_SELECTIONS + 10)]
    assert len(rules._selections) <= MAX_SELECTIONS
    assert rules.select(("user",), f"x{MAX_SELECTIONS + 9}") is kept[-1]
    assert rules.select(("user",), "x0").applied == kept[0].applied


@pytest.mark.parametrize(
    ("text", "prefix", "name"),
    [
        ("10.0.0.1", 64, "10.0.0.1"),
        ("::ffff:10.0.0.1", 64, "10.0.0.1"),
        ("2001:db8:1:2:3:4:5:6", 64, "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::", 64, "2001:db8:1:2::/64"),
        ("2001:db8:1:2::/64", 64, "2001:db8:1:2::/64"),
        ("2001:db8:1:2:3:4:5:6", 48, "2001:db8:1::/48"),
        ("2001:db8:1:2:3:4:5:6", 128, "2001:db8:1:2:3:4:5:6"),
    ],
)
def test_ipv6_is_limited_by_its_network(text: str, prefix: int, name: str) -> None:
    assert limited_ip(text, prefix) == name


@pytest.mark.parametrize("text", ["", "x", "10.0.0.1/64", "10.0.0.0/8", "fe80::1%e/64", "::1/32"])
def test_what_is_no_address_is_not_limited_by_one(text: str) -> None:
    with pytest.raises(InvalidRequestError):
        limited_ip(text, 64)


def test_what_long_texts_select_is_not_kept() -> None:
    rules = Rules(Limit(9), [Rule("r", ("user",), (Limit(1),), paths=Patterns(["/a/*"]))])
    for number in range(50):
        assert rules.select(("user",), path=f"/a/{number}/" + "x" * 60_000).applied[0].rule == "r"
    assert len(rules._selections) == 0
    assert rules.select(("user",), path="/a/b") is rules.select(("user",), path="/a/b")


def test_a_denied_address_is_named_by_its_network() -> None:
    deny = Listed(networks=(ip_network("2001:db8::/32"),))
    planner = Planner(Keyspace(), Rules(Limit(9), deny=deny), ipv6_prefix=64)
    denied = {planner.plan([("ip", f"2001:db8::{n:x}")]).denied for n in range(1, 50)}
    assert denied == {("ip", "2001:db8::/64")}
    assert planner.plan_many([("ip", "2001:db8::7")], ["a"]).denied == ("ip", "2001:db8::/64")


@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)), max_size=5), st.data())
def test_networks_hold_what_they_say(drawn: list[tuple[int, int]], data: st.DataObject) -> None:
    networks = tuple(ip_network((number, bits), strict=False) for number, bits in drawn)
    near = [int(network[-1]) + 1 for network in networks] + [int(n[0]) for n in networks] + [7]
    address = ip_address(data.draw(st.sampled_from(near)) % 2**32)
    listed = Listed(networks=networks)
    assert (("ip", str(address)) in listed) is any(address in network for network in networks)


def test_many_networks_and_many_questions_take_little_time() -> None:
    networks = tuple(IPv4Network((n << 8, 24)) for n in range(10_000))
    rules = Rules(
        Limit(10**6),
        [Rule("x", ("user",), (Limit(10**6),), actions=Patterns(["report:*"]))],
        allow=Listed(networks=networks),
    )
    planner = Planner(Keyspace(), rules, ipv6_prefix=64)
    actions = [f"report:{n}" for n in range(1000)]
    started = time.process_time()
    for _ in range(100):
        planner.plan([("ip", "203.0.113.9")])
    assert time.process_time() - started < 1
    started = time.process_time()
    planner.plan_many([("user", "a")], actions)
    planner.plan_many([("user", "a")], actions)
    assert time.process_time() - started < 1


def test_rules_that_never_apply_are_known_and_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rules = read(
        tmp_path,
        """
        [rules.first]
        kind = ["user", "ip"]
        limits = ["5/minute"]
        [rules.never]
        kind = "user"
        action = "a:*"
        limits = ["1/minute"]
        [rules.keys]
        kind = ["apikey", "user"]
        limits = ["2/minute"]
        """,
    )
    assert rules.unreachable == ("never",)
    (record,) = caplog.records
    assert "limits.toml:5: rules.never: never applies" in record.getMessage()
    assert [each.policy for each in rules.applied("user")] == ["first-user"]
    assert [each.policy for each in rules.applied("apikey")] == ["keys-apikey"]


def test_one_request_has_at_most_50_limits(tmp_path: Path) -> None:
    eight = ", ".join(f'"1/{n} seconds"' for n in range(2, 10))
    text = "\n".join(
        f'[rules.r{n}]\nkind = ["user", "ip"]\nlimits = [{eight}]\ncontinue = true'
        for n in range(3)
    )
    with pytest.raises(ConfigurationError, match=r"limits.toml:9: rules.r2: .*51 limits, .* 50"):
        read(tmp_path, text)

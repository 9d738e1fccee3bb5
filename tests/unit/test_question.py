"""The key of a question: nothing that a policy sees is left out, and no two questions share one."""

from __future__ import annotations

import math
import random
from decimal import Decimal
from hashlib import sha256
from itertools import combinations
from typing import Any

import msgspec
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from sark.errors import InvalidRequestError
from sark.policy import Question

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
ID = TEXT.filter(bool)
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
)
JSON = st.recursive(
    SCALARS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
CONTEXTS = st.dictionaries(TEXT, JSON, max_size=4)
# Few and confusable, so that two draws often differ in one place only.
CONFUSABLE = st.sampled_from(
    [0, 0.0, -0.0, 1, 1.0, "1", "1.0", True, False, None, "true", "null", "", 10**16, 1e16]
) | st.sampled_from(["\u00e9", "e\u0301", "\u212b", "\u00c5", "A\u030a", "\ufb01", "fi"])
TWINS = st.dictionaries(
    st.sampled_from(["a", "b", "\u00e9", "e\u0301"]),
    st.recursive(
        CONFUSABLE,
        lambda inner: (
            st.lists(inner, max_size=2)
            | st.dictionaries(st.sampled_from(["a", "b"]), inner, max_size=2)
        ),
        max_leaves=3,
    ),
    max_size=2,
)


def asked(context: Any = None, **fields: str) -> Question:
    named = {"policy": "authz", "user_id": "u", "action": "a", "resource": "r", **fields}
    return Question.ask(**named, context=context)


def form(value: Any) -> Any:
    """Tell values apart as JSON with types does; Python says ``1 == 1.0 == True``."""
    if isinstance(value, dict):
        return frozenset((name, form(item)) for name, item in value.items())
    if isinstance(value, list):
        return tuple(form(item) for item in value)
    return type(value).__name__, repr(value)


def shuffled(value: Any, order: random.Random) -> Any:
    if isinstance(value, dict):
        items = [(name, shuffled(item, order)) for name, item in value.items()]
        order.shuffle(items)
        return dict(items)
    if isinstance(value, list):
        return [shuffled(item, order) for item in value]
    return value


def nested(levels: int) -> dict[str, Any]:
    context: dict[str, Any] = {}
    for _ in range(levels - 1):
        context = {"a": context}
    return context


@given(CONTEXTS, st.randoms(use_true_random=False))
@example({"b": {"d": 1, "c": [{"f": 1, "e": 2}]}, "a": 1}, random.Random(1))
def test_the_order_of_names_is_irrelevant_at_any_depth(
    context: dict[str, Any], order: random.Random
) -> None:
    one, other = asked(context), asked(shuffled(context, order))
    assert (one.digest, one.input) == (other.digest, other.input)


@given(CONTEXTS | TWINS, CONTEXTS | TWINS)
def test_contexts_share_a_key_only_when_they_are_the_same(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    same = form(one) == form(other)
    assert (asked(one).digest == asked(other).digest) is same


VALUES: list[Any] = [
    None, True, False, 0, 0.0, -0.0, 1, 1.0, -1, "1", "1.0", "0", "true", "null", "", [],
    {}, [1], ["1"], [[]], [None], {"x": None}, {"": 1}, 10**16, 1e16, 2**64, 2**64 + 1,
    "\u00e9", "e\u0301", "\u212b", "\u00c5", "A\u030a", "\ufb01", "fi", "\x00", "\\u0000",
    'a","y":"b', "a\n", "a",
]  # fmt: skip
DISTINCT: list[dict[str, Any]] = [{"x": value} for value in VALUES]
DISTINCT += [{}, {"x": 1, "y": None}, {"X": 1}, {"x.y": 1}, {"x": {"y": 1}}]


def test_confusable_contexts_stay_apart() -> None:
    keys = [asked(context).digest for context in DISTINCT]
    for i, j in combinations(range(len(keys)), 2):
        assert keys[i] != keys[j], f"{DISTINCT[i]} and {DISTINCT[j]} share a key"


@given(st.tuples(ID, ID, ID), st.tuples(ID, ID, ID))
@example(("123:server", "read", "456"), ("123", "server:read", "456"))
@example(("a", "b\nc", "d"), ("a\nb", "c", "d"))
@example(("a", 'b","context":{},"resource":"c', "d"), ("a", "b", "c"))
def test_fields_do_not_run_into_each_other(
    one: tuple[str, str, str], other: tuple[str, str, str]
) -> None:
    assume(one != other)
    names = ("user_id", "action", "resource")
    first = asked(**dict(zip(names, one, strict=True)))
    second = asked(**dict(zip(names, other, strict=True)))
    assert first.digest != second.digest


@given(ID, ID, ID)
def test_text_in_another_field_is_another_question(user: str, action: str, resource: str) -> None:
    assume(len({user, action, resource}) == 3)
    keys = {
        asked(user_id=user, action=action, resource=resource).digest,
        asked(user_id=action, action=user, resource=resource).digest,
        asked(user_id=resource, action=action, resource=user).digest,
        asked({"user_id": user}, user_id=action, action=action, resource=resource).digest,
    }
    assert len(keys) == 4


def test_the_policy_is_part_of_the_key_and_not_of_the_input() -> None:
    one, other = asked(policy="authz"), asked(policy="tools")
    assert one.digest != other.digest
    assert one.input == other.input


@given(CONTEXTS, ID)
def test_the_key_is_made_of_exactly_what_the_policy_sees(
    context: dict[str, Any], user: str
) -> None:
    made = asked(context, user_id=user)
    assert made.digest == sha256(b"authz\n" + made.input).digest()
    assert len(made.digest) * 8 >= 128
    seen = msgspec.json.decode(made.input)
    expected = {"user_id": user, "action": "a", "resource": "r", "context": context}
    assert seen.keys() == expected.keys()
    assert form(seen) == form(expected)


def test_the_form_of_the_key_is_fixed() -> None:
    made = asked({"b": [{"z": 1, "a": "\u00e9"}], "a": None}, policy='a"action":', action="x:read")
    seen = '{"action":"x:read","context":{"a":null,"b":[{"a":"\u00e9","z":1}]},"resource":"r"'
    assert made.input.decode() == seen + ',"user_id":"u"}'
    assert made.digest == sha256(b'a"action":\n' + made.input).digest()


def test_in_this_process_a_question_is_known_by_its_bytes_or_if_long_by_their_digest() -> None:
    short, long = asked({"a": 1}), asked({"a": "x" * 1000})
    assert short.key == short.text
    assert long.key == sha256(long.text).digest()
    assert asked({"a": "x" * 999 + "y"}).key != long.key


def test_no_context_is_an_empty_one() -> None:
    assert asked(None).digest == asked({}).digest


@pytest.mark.parametrize(
    ("context", "field"),
    [
        ({"a": math.nan}, "context.a"),
        ({"a": {"b": [0, math.inf]}}, "context.a.b[1]"),
        ({"a": [-math.inf]}, "context.a[0]"),
        ({"a": {1, 2}}, "context.a"),
        ({"a": (1, 2)}, "context.a"),
        ({"a": b"bytes"}, "context.a"),
        ({"a": Decimal(1)}, "context.a"),
        ({"a": [{"b": object}]}, "context.a[0].b"),
        ({1: "a"}, "context"),
        ({"a": {None: 1}}, "context.a"),
        ({"a": {True: 1}}, "context.a"),
        ({"a": "\ud800"}, "context"),
        ({"\udfff": 1}, "context"),
        (nested(9), "context" + ".a" * 8),
        ({"a": [[[[[[[[]]]]]]]]}, "context.a" + "[0]" * 7),
        ([], "context"),
        (["a"], "context"),
        ("a", "context"),
        (0, "context"),
        (False, "context"),
    ],
    ids=repr,
)
def test_what_is_no_json_is_refused_with_its_place(context: Any, field: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        asked(context)
    assert caught.value.field == field
    assert caught.value.reason


def test_a_context_may_be_eight_levels_deep() -> None:
    assert asked(nested(8)).digest
    assert asked({"a": [[[[[[[1]]]]]]]}).digest


def test_a_context_may_have_16_kib_of_json() -> None:
    empty = len(b'{"a":""}')
    assert asked({"a": "x" * (16_384 - empty)}).digest
    with pytest.raises(InvalidRequestError, match="got 16385 bytes") as caught:
        asked({"a": "x" * (16_385 - empty)})
    assert caught.value.field == "context"
    with pytest.raises(InvalidRequestError, match="at most 16384"):
        asked({"a": "\u00e9" * 8200})


@pytest.mark.parametrize("field", ["user_id", "action", "resource"])
@pytest.mark.parametrize(
    "value",
    ["", "x" * 257, "\u00e9" * 129, "\U0001f600" * 65, "a\ud800", None, 1, True, b"x", ["x"]],
    ids=lambda value: repr(value)[:20],
)
def test_unusable_text_is_refused_with_its_name(field: str, value: Any) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        asked(**{field: value})
    assert caught.value.field == field


@pytest.mark.parametrize("field", ["user_id", "action", "resource"])
@pytest.mark.parametrize("value", ["x" * 256, "\u00e9" * 128, "\U0001f600" * 64, "\x00", " ", "*"])
def test_text_of_up_to_256_bytes_is_used_as_it_is(field: str, value: str) -> None:
    assert msgspec.json.decode(asked(**{field: value}).input)[field] == value


class Text(str):
    __slots__ = ()


ODD = st.sampled_from(
    [math.nan, math.inf, b"x", {1}, (1,), "\ud800", Text("x"), Decimal(1), 1j, object()]
)


@given(
    st.recursive(
        SCALARS | TEXT | ODD,
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(TEXT | st.integers(), inner, max_size=3)
        ),
        max_leaves=15,
    )
)
@example({"a": Text("x")})
def test_anything_else_is_refused_and_never_breaks(context: Any) -> None:
    try:
        made = asked(context)
    except InvalidRequestError as error:
        assert error.reason  # noqa: PT017 - both outcomes are right, an exception of another type is not
    else:
        assert form(msgspec.json.decode(made.input)["context"]) == form(context or {})


def test_a_number_of_thousands_of_digits_is_refused() -> None:
    assert asked({"a": 10**400}).digest
    with pytest.raises(InvalidRequestError, match="digits"):
        asked({"a": 10**5000})

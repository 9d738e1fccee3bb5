"""What is counted of the questions asked, and what comes back out of the log."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from timeit import repeat
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sark.errors import InvalidRequestError, StoreUnavailableError
from sark.keyspace import Keyspace
from sark.policy import Question
from sark.policy.hot import MAX_COUNTED, MAX_FLUSHED, MAX_MEMBER_BYTES, HotRequests, recall
from sark.policy.policy_file import PolicyFile, PolicyRule
from sark.policy.projection import Only, Without
from sark.store import Store

RULES = PolicyFile()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


class Recorder:
    """A server that remembers what it was sent."""

    def __init__(self) -> None:
        self.calls: list[tuple[Sequence[str], Sequence[Any]]] = []
        self.down = False

    async def run(self, _: object, keys: Sequence[str], args: Sequence[Any], **__: object) -> None:
        self.calls.append((keys, args))
        if self.down:
            raise StoreUnavailableError("down")

    @property
    def counts(self) -> dict[bytes, int]:
        """The pairs of all calls together."""
        found: Counter[bytes] = Counter()
        for _, args in self.calls:
            for count, member in zip(args[5::2], args[6::2], strict=True):
                found[member] += count
        return dict(found)


def log_on(recorder: Recorder, every: int = 1, keep: int = 1000) -> HotRequests:
    store = SimpleNamespace(keys=Keyspace(), cache=recorder)
    return HotRequests(cast("Store", store), every=every, keep=keep)


def ask(number: int = 0, action: str = "server:read", **context: Any) -> Question:
    return Question.ask("authz", f"user-{number}", action, "r", context)


class TestSampling:
    async def test_everything_is_counted_when_every_question_is(self) -> None:
        recorder = Recorder()
        hot = log_on(recorder)
        for _ in range(3):
            hot.note(ask(1), RULES)
        hot.note(ask(2), RULES)
        await hot.flush()
        assert recorder.counts == {ask(1).text: 3, ask(2).text: 1}

    async def test_nothing_is_counted_when_it_is_off(self) -> None:
        recorder = Recorder()
        hot = log_on(recorder, every=0)
        for _ in range(1000):
            hot.note(ask(), RULES)
        await hot.flush()
        assert recorder.calls == []

    async def test_about_one_in_so_many_is_counted(self) -> None:
        recorder = Recorder()
        hot = log_on(recorder, every=16)
        for _ in range(160_000):
            hot.note(ask_once, RULES)
        await hot.flush()
        # The mean of 10,000 distances of 1 to 31; its standard deviation is 0.09.
        assert 9_500 < recorder.counts[ask_once.text] < 10_500

    async def test_a_rhythm_of_the_callers_hides_nothing(self) -> None:
        recorder = Recorder()
        hot = log_on(recorder, every=16)
        questions = [ask(number) for number in range(16)]
        for _ in range(2_000):
            for question in questions:
                hot.note(question, RULES)
        await hot.flush()
        assert len(recorder.counts) == 16
        assert min(recorder.counts.values()) > 50

    def test_what_is_not_sampled_costs_next_to_nothing(self) -> None:
        hot = log_on(Recorder(), every=1_000_000)
        calls = 20_000
        best = min(repeat(lambda: hot.note(ask_once, RULES), number=calls, repeat=7))
        # 0.1 microseconds measured, of which the lambda is a third; the bound is for slow machines.
        assert best / calls < 1e-6


ask_once = ask(7)


class TestBounds:
    async def test_sensitive_actions_are_not_counted(self) -> None:
        recorder = Recorder()
        hot = log_on(recorder)
        for action in ("admin:read", "unknown", "user:grant", "server:write"):
            hot.note(ask(action=action), RULES)
        await hot.flush()
        assert list(recorder.counts) == [ask(action="server:write").text]

    async def test_long_questions_are_not_counted(self) -> None:
        recorder = Recorder()
        hot = log_on(recorder)
        fits = MAX_MEMBER_BYTES - len(ask(filler="").text)
        hot.note(ask(filler="x" * (fits + 1)), RULES)
        hot.note(ask(filler="x" * fits), RULES)
        await hot.flush()
        assert [len(member) for member in recorder.counts] == [MAX_MEMBER_BYTES]

    async def test_the_process_counts_so_many_different_questions_at_most(self) -> None:
        recorder = Recorder()
        hot = log_on(recorder)
        for number in range(MAX_COUNTED + 500):
            hot.note(ask(number), RULES)
        hot.note(ask(0), RULES)  # one that is counted already goes on
        hot.note(ask(MAX_COUNTED), RULES)
        assert len(hot._counts) == MAX_COUNTED
        await hot.flush()
        assert recorder.counts[ask(0).text] == 2
        assert ask(MAX_COUNTED).text not in recorder.counts

    async def test_a_call_carries_the_most_asked_and_the_rest_is_dropped(self) -> None:
        recorder = Recorder()
        hot = log_on(recorder)
        for number in range(MAX_FLUSHED + 100):
            for _ in range(1 if number < 100 else 2):
                hot.note(ask(number), RULES)
        await hot.flush()
        assert set(recorder.counts.values()) == {2}
        assert len(recorder.counts) == MAX_FLUSHED
        await hot.flush()
        ((keys, _),) = recorder.calls
        assert keys == ["policy:hot_requests"]

    async def test_a_failed_call_raises_nothing_and_is_not_repeated(self) -> None:
        recorder = Recorder()
        recorder.down = True
        hot = log_on(recorder)
        hot.note(ask(), RULES)
        await hot.flush()
        await hot.flush()
        assert len(recorder.calls) == 1


class TestRecall:
    @given(st.dictionaries(st.text(max_size=5), JSON, max_size=4), st.text(min_size=1, max_size=20))
    def test_what_is_recalled_is_what_was_asked(self, context: dict[str, Any], user: str) -> None:
        asked = Question.ask("authz", user, "server:read", "r/1", context)
        assert recall(asked.text, RULES, ["authz"]) == asked
        assert json.loads(asked.text) == {
            "policy": "authz",
            "user_id": user,
            "action": "server:read",
            "resource": "r/1",
            "context": context,
        }

    @pytest.mark.parametrize(
        "rule",
        [
            PolicyRule(Without([("a", "b"), ("c",)]), ip=True, api_key_id=True),
            PolicyRule(Only([("a", "b")]), ip=True),
            PolicyRule(Only([("a", "d")]), api_key_id=True),
        ],
        ids=["without", "only", "only-another"],
    )
    @pytest.mark.parametrize("ip", [None, "192.0.2.1"])
    def test_the_same_policy_file_cuts_nothing_more(self, rule: PolicyRule, ip: str | None) -> None:
        rules = PolicyFile(rules={"authz": rule})
        context: dict[str, Any] = {"a": [{"b": 1, "d": 2}, 3], "c": 4, "ip": "claimed", "e": {}}
        seen = rules.project("authz", context, ip, "key-1")
        asked = Question.ask("authz", "u", "server:read", "r", seen)
        assert recall(asked.text, rules, ["authz"]) == asked

    def test_what_a_policy_no_longer_sees_does_not_come_back(self) -> None:
        stricter = PolicyFile(rules={"authz": PolicyRule(Without([("secret",)]))})
        recalled = recall(ask(secret=1, kept=2).text, stricter, ["authz"])
        assert recalled == ask(kept=2)

    def test_an_address_that_is_no_text_is_dropped(self) -> None:
        rules = PolicyFile(rules={"authz": PolicyRule(ip=True)})
        assert recall(ask(ip=[1]).text, rules, ["authz"]) == ask()

    @pytest.mark.parametrize(
        "member",
        [
            b"",
            b"{",
            b"null",
            b"\xff",
            b"[" * 100_000,
            b'{"policy":"authz"}',
            ask().text.replace(b'"policy"', b'"more":1,"policy"'),
            ask().text.replace(b'"user-0"', b'""'),
            ask().text.replace(b'"authz"', b'"other"'),
        ],
        ids=lambda member: repr(member[:20]),
    )
    def test_what_is_no_question_is_refused(self, member: bytes) -> None:
        with pytest.raises(InvalidRequestError):
            recall(member, RULES, ["authz"])

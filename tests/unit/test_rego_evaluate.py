"""Evaluating with the embedded engine: a decision, nothing, or a failure that can be read."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sark.errors import EvaluationError, PolicyError
from sark.policy import Decision, Question
from sark.policy.evaluators import EmbeddedRego

HEAD = "package sark.authz\nimport rego.v1\n"

Load = Callable[..., EmbeddedRego]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """A function that loads the rules of one policy."""

    def make(rules: str, data: str = "{}") -> EmbeddedRego:
        (tmp_path / "a.rego").write_text(HEAD + rules)
        (tmp_path / "data.json").write_text(data)
        return EmbeddedRego(tmp_path, ("authz",))

    return make


def asked(user_id: str = "u", context: dict[str, Any] | None = None) -> bytes:
    return Question.ask("authz", user_id, "server:read", "r", context).input


async def test_a_decision_is_all_that_the_policy_returns(load: Load) -> None:
    engine = load('decision := {"allow": true, "reason": "é\\n\\"", "ttl": 7, "cacheable": false}')
    decision = (await engine.evaluate("authz", asked())).decision
    assert decision == Decision(allow=True, reason='é\n"', ttl=7, cacheable=False)


async def test_the_policy_sees_exactly_the_input(load: Load) -> None:
    engine = load('decision := {"allow": false, "reason": json.marshal(input)}')
    context: dict[str, Any] = {"n": [1, 2.5, -3, None, True], "\u212b": {"e\u0301": "\x00"}}
    question = Question.ask("authz", "ü:{*}", "server:read", "r\n", context)
    decision = (await engine.evaluate("authz", question.input)).decision
    assert decision is not None
    seen = Question.ask("authz", **_fields(decision.reason))
    assert seen.input == question.input


def _fields(text: str) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.json.decode(text)
    assert fields.keys() == {"user_id", "action", "resource", "context"}
    return fields


async def test_data_are_below_their_directory(load: Load, tmp_path: Path) -> None:
    (tmp_path / "org").mkdir()
    (tmp_path / "org" / "x.yaml").write_text("admins: [root]\nsince: 2026-01-02\n")
    engine = load(
        'decision := {"allow": input.user_id in data.org.admins, "reason": data.org.since}'
    )
    assert (await engine.evaluate("authz", asked("root"))).decision == Decision(
        allow=True, reason="2026-01-02"
    )
    assert (await engine.evaluate("authz", asked("u"))).decision == Decision(
        allow=False, reason="2026-01-02"
    )


async def test_each_policy_has_its_own_decision(tmp_path: Path) -> None:
    for name, allow in (("authz", "true"), ("tools", "false")):
        text = f'package sark.{name}\nimport rego.v1\ndecision := {{"allow": {allow}}}\n'
        (tmp_path / f"{name}.rego").write_text(text)
    engine = EmbeddedRego(tmp_path, ("authz", "tools"))
    assert (await engine.evaluate("authz", asked())).decision == Decision(allow=True)
    assert (await engine.evaluate("tools", asked())).decision == Decision(allow=False)


async def test_undefined_is_no_decision(load: Load) -> None:
    engine = load('decision := {"allow": true} if input.user_id == "root"')
    assert (await engine.evaluate("authz", asked("u"))).decision is None
    assert (await engine.evaluate("authz", asked("root"))).decision == Decision(allow=True)


@pytest.mark.parametrize(
    "value",
    [
        "null", "true", "false", '"allow"', "1", "[true]", "{}", '{"allow"}', '{"allow": null}',
        '{"allow": "true"}', '{"allow": true, "ttl": "9"}', '{"reason": "x"}',
    ],
)  # fmt: skip
async def test_a_decision_of_another_form_is_a_failure(load: Load, value: str) -> None:
    engine = load(f"decision := {value}")
    with pytest.raises(EvaluationError, match=r"^data\.sark\.authz\.decision: .*(E|e)xpected|miss"):
        await engine.evaluate("authz", asked())


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ('decision := {"allow": startswith(input.context.x, "a")}', "startswith"),
        ('decision := {"allow": 1 / (input.context.x - 1) == 1}', "zero"),
        ('decision := {"allow": true, "ttl": to_number(input.user_id)}', "parse"),
    ],
)
async def test_an_error_of_a_builtin_is_a_failure_with_its_place(
    load: Load, rule: str, reason: str
) -> None:
    engine = load(rule)
    with pytest.raises(EvaluationError) as caught:
        await engine.evaluate("authz", asked(context={"x": 1}))
    message = str(caught.value)
    assert message.startswith("data.sark.authz.decision: ")
    assert message.endswith(" at a.rego:3")
    assert reason in message
    assert "\n" not in message


async def test_rules_that_conflict_on_an_input_are_a_failure(load: Load) -> None:
    engine = load(
        'decision := {"allow": true} if input.user_id == "u"\n'
        'decision := {"allow": false} if input.user_id == "u"\n'
    )
    with pytest.raises(EvaluationError, match="rule conflicts with rule"):
        await engine.evaluate("authz", asked("u"))
    assert (await engine.evaluate("authz", asked("v"))).decision is None


async def test_a_failure_leaves_nothing_for_the_next_question(load: Load) -> None:
    engine = load(
        'decision := {"allow": startswith(input.context.x, "a"), "reason": input.user_id}'
    )
    for turn in range(20):
        with pytest.raises(EvaluationError):
            await engine.evaluate("authz", asked(f"bad-{turn}", {"x": turn}))
        decision = (await engine.evaluate("authz", asked(f"good-{turn}", {"x": "ab"}))).decision
        assert decision == Decision(allow=True, reason=f"good-{turn}")
        assert (await engine.evaluate("authz", asked(f"none-{turn}"))).decision is None


async def test_input_that_the_engine_cannot_read_is_a_failure(load: Load) -> None:
    engine = load('decision := {"allow": true}')
    for broken in (b"", b"{", b"\xff", b'{"x":' + b"[" * 2000 + b"]" * 2000 + b"}"):
        with pytest.raises(EvaluationError) as caught:
            await engine.evaluate("authz", broken)
        assert "\n" not in str(caught.value)
    assert (await engine.evaluate("authz", asked())).decision == Decision(allow=True)


def test_any_thread_with_any_loop_may_evaluate(load: Load) -> None:
    engine = load('decision := {"allow": input.user_id == "u-1", "reason": input.user_id}')
    barrier = threading.Barrier(4)

    def work(number: int) -> list[Decision | None]:
        barrier.wait(10)

        async def ask_often() -> list[Decision | None]:
            return [
                (await engine.evaluate("authz", asked(f"u-{number}"))).decision for _ in range(50)
            ]

        return asyncio.run(ask_often()) + asyncio.run(ask_often())

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(work, range(4)))
    for number, decisions in enumerate(answers):
        assert decisions == [Decision(allow=number == 1, reason=f"u-{number}")] * 100
    last = asyncio.run(engine.evaluate("authz", asked("u-1")))
    assert last.decision == Decision(allow=True, reason="u-1")


def test_an_evaluator_may_end_while_another_thread_has_used_it(tmp_path: Path) -> None:
    (tmp_path / "a.rego").write_text(HEAD + 'decision := {"allow": true}\n')
    engines = [EmbeddedRego(tmp_path, ("authz",))]
    used, ended = threading.Event(), threading.Event()

    def work() -> None:
        asyncio.run(engines[0].evaluate("authz", asked()))
        used.set()
        assert ended.wait(10)

    thread = threading.Thread(target=work)
    thread.start()
    assert used.wait(10)
    engines.clear()
    gc.collect()  # the engine would complain here, on the wrong thread
    ended.set()
    thread.join(10)
    gc.collect()
    # Another evaluator of the same thread makes room.
    assert asyncio.run(EmbeddedRego(tmp_path, ("authz",)).evaluate("authz", asked()))


def test_engines_of_evaluators_that_ended_do_not_pile_up(tmp_path: Path) -> None:
    from sark.policy.evaluators import rego_program

    (tmp_path / "a.rego").write_text(HEAD + 'decision := {"allow": true}\n')
    for _ in range(5):
        EmbeddedRego(tmp_path, ("authz",))
        gc.collect()
    assert sum(owner() is None for owner, _ in rego_program._engines.__dict__.values()) <= 1


@pytest.mark.parametrize("rules", ["decision := {", "decision := q", "verdict := 1"])
def test_a_refused_policy_may_be_forgotten_by_any_thread(tmp_path: Path, rules: str) -> None:
    (tmp_path / "a.rego").write_text(HEAD + rules)
    kept: list[object] = []
    with pytest.raises(PolicyError) as caught:
        EmbeddedRego(tmp_path, ("authz",))
    kept += [caught.value, kept]  # its traceback, in a cycle that only the collector breaks
    del caught, kept

    thread = threading.Thread(target=gc.collect)
    thread.start()
    thread.join(10)
    gc.collect()

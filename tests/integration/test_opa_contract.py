"""What OPA answers, as OpaHttp reads it; the same tests on a live OPA where one is given.

``OPA_BIN=/path/to/opa`` or ``OPA_URL=http://...`` adds the live one.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sark.errors import EvaluationError
from sark.policy import Decision, Question
from sark.policy.evaluators import EmbeddedRego
from sark.policy.evaluators.opa import OpaHttp
from sark.policy.evaluators.opa_transport import OpaEndpoint
from tests.support.opa import EXAMPLES, OpaServer, is_live_opa_given, live_opa

ENGINES = ["reference", "live"] if is_live_opa_given() else ["reference"]
TTL_TOLERANCE_SECONDS = 2


@pytest.fixture(params=ENGINES)
async def opa(request: pytest.FixtureRequest) -> AsyncIterator[OpaHttp]:
    if request.param == "live":
        async with live_opa() as url, OpaHttp(OpaEndpoint(url)) as client:
            yield client
        return
    async with OpaServer() as server, OpaHttp(OpaEndpoint(server.url)) as client:
        yield client


def asked(action: str = "server:read", context: dict[str, Any] | None = None) -> bytes:
    return Question.ask("authz", "u", action, "r", context).input


@pytest.mark.parametrize(
    ("policy", "decision"),
    [
        ("full", Decision(allow=True, reason='é\n"', ttl=7, cacheable=True)),
        ("bare", Decision(allow=False)),
        ("brief", Decision(allow=True, cacheable=False)),
    ],
)
async def test_a_decision_is_all_that_the_policy_returns(
    opa: OpaHttp, policy: str, decision: Decision
) -> None:
    evaluation = await opa.evaluate(policy, asked())
    assert evaluation.decision == decision
    assert evaluation.revision == opa.revision


@pytest.mark.parametrize("policy", ["nothing", "no_such_policy", "full.more", "é %?#"])
async def test_undefined_and_wrong_paths_are_no_decision(opa: OpaHttp, policy: str) -> None:
    assert (await opa.evaluate(policy, asked())).decision is None


async def test_the_policy_sees_exactly_the_input(opa: OpaHttp) -> None:
    context: dict[str, Any] = {"n": [1, 2.5, -3, None, True], "\u212b": {"e\u0301": "\x00\\/<&"}}
    given = asked(context=context)
    decision = (await opa.evaluate("echo", given)).decision
    assert decision is not None
    assert json.loads(decision.reason) == json.loads(given)


@pytest.mark.parametrize("policy", ["number", "nil", "words", "silent"])
async def test_a_decision_of_the_wrong_form_fails(opa: OpaHttp, policy: str) -> None:
    with pytest.raises(EvaluationError, match=rf"^data\.sark\.{policy}\.decision: .*"):
        await opa.evaluate(policy, asked())
    assert opa.breaker == "closed"


async def test_an_evaluation_that_fails_says_where(opa: OpaHttp) -> None:
    with pytest.raises(EvaluationError) as caught:
        await opa.evaluate("conflict", asked("s3cret-action"))
    message = str(caught.value)
    assert message.startswith("OPA answers 500 internal_error eval_conflict_error at ")
    assert message.endswith("conflict.rego:5")


async def test_malformed_input_is_refused(opa: OpaHttp) -> None:
    with pytest.raises(EvaluationError, match=r"^OPA answers 400 invalid_parameter$"):
        await opa.evaluate("full", b'{"a": s3cret')


async def test_ready(opa: OpaHttp) -> None:
    assert await opa.ready() is None


async def test_every_sample_request_is_decided_as_in_the_embedded_engine(opa: OpaHttp) -> None:
    embedded = EmbeddedRego(Path(EXAMPLES / "policies"), ("authz",))
    lines = (EXAMPLES / "requests.jsonl").read_text().splitlines()
    inputs = {input_of(json.loads(line)) for line in lines}
    assert len(inputs) > 400
    for each in inputs:
        decision = (await opa.evaluate("authz", each)).decision
        # Both read the clock, and an hour may end between them; a second pair is within it.
        if not alike(decision, await _embedded(embedded, each)):
            decision = (await opa.evaluate("authz", each)).decision
            assert alike(decision, await _embedded(embedded, each)), each


async def _embedded(engine: EmbeddedRego, given: bytes) -> Decision | None:
    return (await engine.evaluate("authz", given)).decision


def input_of(request: dict[str, Any]) -> bytes:
    fields = {name: request[name] for name in ("user_id", "action", "resource", "context")}
    return Question.ask("authz", **fields).input


def alike(one: Decision | None, other: Decision | None) -> bool:
    if one is None or other is None:
        return one is other
    same = (one.allow, one.reason, one.cacheable) == (other.allow, other.reason, other.cacheable)
    if one.ttl is None or other.ttl is None:
        return same and one.ttl is other.ttl
    return same and abs(one.ttl - other.ttl) <= TTL_TOLERANCE_SECONDS

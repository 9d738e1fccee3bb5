"""What is asked: sample requests whose decisions stay cached during a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.measure import BenchmarkError
from sark import Request
from sark.policy import Question
from sark.runtime import Runtime

__all__ = ["POLICIES", "ROOT", "Workload", "prime", "read_requests"]

ROOT = Path(__file__).parent.parent
POLICIES = ROOT / "examples/policies"
REQUESTS = ROOT / "examples/requests.jsonl"

HITS = 256
MISSES = 100

# Decisions that depend on the time of day end at the next boundary, and highly sensitive ones soon;
# one in the middle of a run would turn a hit into a miss. Also, the near cache holds none of them.
LEAST_TTL_SECONDS = 600


@dataclass(frozen=True, slots=True)
class Workload:
    """Requests that name a user, an address and an api key, so that three limits are charged.

    Attributes:
        policy: The policy that decides them.
        hits: Requests whose decisions are cached; none has an access token.
        misses: Others, whose decisions are removed before each round.
    """

    policy: str
    hits: tuple[Request, ...]
    misses: tuple[Request, ...]

    async def with_tokens(self, runtime: Runtime) -> list[Request]:
        """Begin a session for each user of the hits; returns the hits with its access token."""
        users = {request.user_id or "" for request in self.hits}
        tokens = {
            user: (await runtime.sessions.create(user, client_id="benchmark")).access_token
            for user in sorted(users)
        }
        return [
            msgspec.structs.replace(request, access_token=tokens[request.user_id or ""])
            for request in self.hits
        ]

    def question(self, request: Request) -> Question:
        """Put a request as the question that its decision is cached under."""
        return Question.ask(
            self.policy, request.user_id or "", request.action, request.resource, request.context
        )

    def asked(self) -> list[tuple[str, str, str, str, dict[str, Any]]]:
        """Spell the hits as arguments of ``Question.ask``."""
        return [(self.policy, r.user_id or "", r.action, r.resource, r.context) for r in self.hits]


def read_requests(path: Path = REQUESTS) -> list[Request]:
    """Read the sample requests: each question once, completed to name three identities."""
    found: dict[str, Request] = {}
    for line in path.read_bytes().splitlines():
        request = msgspec.json.decode(line, type=Request)
        complete = msgspec.structs.replace(
            request,
            ip=request.ip or "192.0.2.1",
            api_key_id=request.api_key_id or "key-benchmark",
        )
        question = Question.ask(
            "any", request.user_id or "", request.action, request.resource, request.context
        )
        found.setdefault(question.digest.hex(), complete)
    return list(found.values())


async def prime(runtime: Runtime, requests: list[Request]) -> Workload:
    """Ask every request twice and keep those that the cache knows the second time.

    Raises:
        BenchmarkError: Too few are left.
    """
    kept: list[Request] = []
    for request in requests:
        await runtime.authorize(request)
        answer = await runtime.authorize(request)
        if answer.cached == "valkey" and answer.ttl >= LEAST_TTL_SECONDS:
            kept.append(request)
        if len(kept) == HITS + MISSES:
            break
    else:
        raise BenchmarkError(
            f"only {len(kept)} of {len(requests)} sample requests can be cached long enough, "
            f"expected {HITS + MISSES}"
        )
    return Workload(runtime.settings.policies[0], tuple(kept[:HITS]), tuple(kept[HITS:]))

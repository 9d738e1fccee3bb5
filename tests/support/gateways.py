"""Gateways for tests: real servers underneath, and evaluators whose answers a test controls."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
import valkey

from sark.errors import QueueFullError
from sark.events import Hub
from sark.gateway import Gateway, Request
from sark.policy import Decision, PolicyCache, Question, TtlTiers
from sark.policy.decisions import Decisions
from sark.policy.evaluation import Evaluations
from sark.policy.evaluators import Evaluation, Evaluator
from sark.policy.freshness import FreshnessSigner
from sark.policy.generations import Generations
from sark.policy.near_feed import NearFeed
from sark.ratelimit import Identity, Limit, RateLimiter, Rules
from sark.ratelimit.limits import Fallback
from sark.sessions import Sessions
from sark.settings import Settings
from sark.siem import AuditEvent, EventQueue, QueueBounds, Refusals, new_event_id, now
from sark.siem.spill import Replay, Spill
from sark.store import Store, Topology
from tests.support.servers import ValkeyServer

T = TypeVar("T")
Decide = Callable[[str, bytes], Awaitable[Decision | None]]

# Generous, for tests in which time is not the point; they share the machine with others.
PATIENCE_SECONDS = 30.0
SINKS = ("main",)
QUEUE = "siem:event_queue"
ACCOUNT = "siem:account"
SIGNER = FreshnessSigner(b"a key of the tests, 32 bytes long")


class Scripted:
    """An evaluator that decides what it is told, and remembers what it was asked.

    Args:
        decide: Decides; allow by default.
        revision: Its revision.

    Attributes:
        asked: Policy and input of every evaluation.
    """

    def __init__(self, decide: Decide | Decision | None = None, *, revision: str = "r1") -> None:
        self.revision = revision
        self.description = "scripted"
        self.asked: list[tuple[str, bytes]] = []
        self.decide = decide if decide is not None else Decision(allow=True, reason="scripted")

    async def evaluate(self, policy: str, input_json: bytes) -> Evaluation:
        self.asked.append((policy, input_json))
        revision = self.revision
        if isinstance(self.decide, Decision):
            return Evaluation(self.decide, revision)
        return Evaluation(await self.decide(policy, input_json), revision)

    async def ready(self) -> str | None:
        return None

    async def close(self) -> None:
        pass


@asynccontextmanager
async def open_store(
    url: str, *, cache_url: str | None = None, hub: Hub | None = None, **settings: Any
) -> AsyncIterator[Store]:
    """Open the ``state`` server at ``url``, which holds the cache too unless told otherwise."""
    async with Store(Topology(cache_url or url, url), Settings(**settings), hub) as store:
        yield store


def generations(store: Store, *, user_token_ttl: int = 60, replicas: int = 0) -> Generations:
    """Make what writes generation tokens."""
    return Generations(store, signer=SIGNER, user_token_ttl=user_token_ttl, replicas=replicas)


def policy_cache(store: Store, tiers: TtlTiers | None = None, **options: Any) -> PolicyCache:
    """Make a cache without jitter, whose user tokens live twice as long as any decision."""
    tiers = tiers or TtlTiers()
    made = generations(store, user_token_ttl=2 * tiers.longest)
    return PolicyCache(store, made, tiers, **options)


def policy_decisions(
    cache: PolicyCache,
    evaluator: Evaluator,
    *,
    near: NearFeed | None = None,
    timeout: float = PATIENCE_SECONDS,
    store_timeout: float = PATIENCE_SECONDS,
    hub: Hub | None = None,
) -> Decisions:
    """Make what decides, without a near cache unless given."""
    evaluations = Evaluations(evaluator, timeout=timeout, hub=hub or Hub())
    return Decisions(cache, near, evaluations, SIGNER, store_timeout=store_timeout)


def limiter_of(store: Store, limits: Rules | Limit | None, **options: Any) -> RateLimiter:
    """Make a limiter that waits for a busy machine rather than decide by itself."""
    return RateLimiter(store, limits, **{"budget": PATIENCE_SECONDS, **options})


@asynccontextmanager
async def open_gateway(
    url: str,
    evaluator: Evaluator | None = None,
    *,
    cache_url: str | None = None,
    policies: tuple[str, ...] = ("authz",),
    limit: Limit | Rules | None = None,
    bounds: QueueBounds | None = None,
    tiers: TtlTiers | None = None,
    budget: float = PATIENCE_SECONDS,
    evaluator_timeout: float = PATIENCE_SECONDS,
    hub: Hub | None = None,
    make_sessions: Callable[[Store], Sessions] | None = None,
    fallback: Fallback = "local",
    spill: Spill | None = None,
    **settings: Any,
) -> AsyncIterator[Gateway]:
    """Open a gateway; its pending events are flushed at the end, and what ``spill`` has replayed.

    The spill store stays open: whoever opened it closes it.
    """
    async with open_store(url, cache_url=cache_url, hub=hub, **settings) as store:
        decisions = policy_decisions(
            policy_cache(store, tiers),
            evaluator or Scripted(),
            timeout=evaluator_timeout,
            store_timeout=budget,
            hub=store.hub,
        )
        gateway = Gateway(
            store,
            policies=policies,
            decisions=decisions,
            limiter=RateLimiter(store, limit, fallback=fallback),
            queue=EventQueue(
                store, SINKS, bounds or QueueBounds(), flush_timeout=budget, spill=spill
            ),
            budget=budget,
            sessions=None if make_sessions is None else make_sessions(store),
        )
        replay = None
        if spill is not None:
            work = Replay(spill, gateway.queue.put_back, sinks=SINKS, hub=store.hub)
            replay = asyncio.create_task(work.run())
        try:
            yield gateway
        finally:
            await decisions.evaluations.close()
            if replay is not None:
                replay.cancel()
                await asyncio.gather(replay, return_exceptions=True)
            await gateway.queue.close()


def ask(user_id: str = "alice", action: str = "server:read", **fields: Any) -> Request:
    """Make a request."""
    return Request(user_id=user_id, action=action, **{"resource": "srv-1", **fields})


def question(user_id: str = "alice", action: str = "server:read", **fields: Any) -> Question:
    """Make a question."""
    policy = fields.pop("policy", "authz")
    return Question.ask(policy, user_id, action, fields.pop("resource", "srv-1"), **fields)


def audit_event(**fields: Any) -> AuditEvent:
    """Make an audit event."""
    defaults: dict[str, Any] = {
        "id": new_event_id(),
        "time": now(),
        "type": "decision",
        "policy": "authz",
        "user_id": "alice",
        "action": "server:read",
        "resource": "srv-1",
        "context": {},
        "allow": True,
        "reason": "because",
    }
    return AuditEvent(**{**defaults, **fields})


def later(seconds: float = PATIENCE_SECONDS) -> float:
    """Give a deadline on the running loop's clock."""
    return asyncio.get_running_loop().time() + seconds


def queued(server: ValkeyServer) -> list[dict[str, Any]]:
    """Read the audit events in the queue, oldest first."""
    return [msgspec.json.decode(event) for event in raw_events(server)]


def raw_events(server: ValkeyServer) -> list[bytes]:
    """Read the queue as it is stored."""
    with server.client() as client:
        events: list[bytes] = client.lrange(QUEUE, 0, -1)
    return events


def account(server: ValkeyServer) -> dict[str, int]:
    """Read the queue's account."""
    with server.client() as client:
        fields: dict[bytes, bytes] = client.hgetall(ACCOUNT)
    return {name.decode(): int(value) for name, value in fields.items()}


def assert_account_is_exact(server: ValkeyServer) -> None:
    """Check that the account agrees with the queue."""
    events, booked = raw_events(server), account(server)
    for unit, there in (("", len(events)), ("_bytes", sum(map(len, events)))):
        came = booked.get(f"accepted{unit}", 0) + booked.get(f"duplicates{unit}", 0)
        assert came == there + booked.get(f"purged{unit}", 0)
    assert booked.get("queued_bytes", 0) == sum(map(len, events))


# Several processes at once. What they run must be found by name, so it stands here.


@contextmanager
def processes(count: int) -> Iterator[ProcessPoolExecutor]:
    """Provide processes that share nothing with this one.

    They are forked from a server without threads that has imported what they need: fifty at once
    would otherwise import it for a minute.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "tests.support.breaker_work"])
    with ProcessPoolExecutor(count, mp_context=context) as pool:
        yield pool


@dataclass(frozen=True)
class Meeting:
    """Where processes wait for each other, so that they work at the same time."""

    url: str
    name: str
    parties: int

    def join(self) -> None:
        key = f"test:meeting:{self.name}"
        deadline = time.monotonic() + PATIENCE_SECONDS
        with valkey.Valkey.from_url(self.url) as client:
            client.incr(key)
            client.expire(key, 60)
            while int(client.get(key) or 0) < self.parties:
                assert time.monotonic() < deadline, "the other processes did not come"
                time.sleep(0.001)


async def together(pool: ProcessPoolExecutor, count: int, work: Callable[[int], T]) -> list[T]:
    """Run ``work(0)``, ``work(1)``, ... in as many processes."""
    loop = asyncio.get_running_loop()
    return await asyncio.gather(*(loop.run_in_executor(pool, work, n) for n in range(count)))


@dataclass(frozen=True)
class ChargeWork:
    """Charges identities with many tasks at once; tells how many were admitted."""

    meeting: Meeting
    limit: Limit
    identities: tuple[Identity, ...]
    tasks: int

    def __call__(self, _number: int) -> int:
        self.meeting.join()
        return asyncio.run(self._run())

    async def _run(self) -> int:
        async with open_store(self.meeting.url) as store:
            limiter = limiter_of(store, self.limit)
            charges = await asyncio.gather(
                *(limiter.check(self.identities, deadline=later()) for _ in range(self.tasks))
            )
        return sum(charge.admitted for charge in charges)


@dataclass(frozen=True)
class AppendWork:
    """Appends events with many tasks at once; returns ids of those accepted and refused."""

    meeting: Meeting
    bounds: QueueBounds
    tasks: int
    reason: str = "because"

    def __call__(self, number: int) -> tuple[list[str], list[str]]:
        self.meeting.join()
        return asyncio.run(self._run(number))

    async def _run(self, number: int) -> tuple[list[str], list[str]]:
        accepted: list[str] = []
        refused: list[str] = []
        async with open_store(self.meeting.url) as store:
            queue = EventQueue(store, SINKS, self.bounds, flush_timeout=PATIENCE_SECONDS)

            async def append() -> None:
                event = audit_event(user_id=f"process-{number}", reason=self.reason)
                try:
                    await queue.append(event, deadline=later())
                except QueueFullError:
                    refused.append(event.id)
                else:
                    accepted.append(event.id)

            await asyncio.gather(*(append() for _ in range(self.tasks)))
            await queue.close()
        return accepted, refused


@dataclass(frozen=True)
class RefuseWork:
    """Records refusals of one identity with many tasks; returns the ids they are recorded as."""

    meeting: Meeting
    name: str
    tasks: int
    seconds: float

    def __call__(self, _number: int) -> list[str]:
        self.meeting.join()
        return asyncio.run(self._run())

    async def _run(self) -> list[str]:
        async with open_store(self.meeting.url) as store:
            refusals = Refusals(store, SINKS, QueueBounds())
            return await asyncio.gather(
                *(
                    refusals.record(
                        self.name,
                        audit_event(type="refusal", allow=False),
                        identity=self.name,
                        seconds_left=self.seconds,
                        deadline=later(),
                    )
                    for _ in range(self.tasks)
                )
            )


@dataclass(frozen=True)
class CloseWork:
    """Closes refused windows again and again for some time; tells how many it closed."""

    meeting: Meeting
    seconds: float

    def __call__(self, _number: int) -> int:
        self.meeting.join()
        return asyncio.run(self._run())

    async def _run(self) -> int:
        async with open_store(self.meeting.url) as store:
            refusals = Refusals(store, SINKS, QueueBounds())
            closed, end = 0, time.monotonic() + self.seconds
            while time.monotonic() < end:
                closed += await refusals.close_due()
            return closed

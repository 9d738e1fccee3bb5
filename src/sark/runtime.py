"""Everything that one process holds: servers, engine, functions, gateway; opened from settings.

This is the one place where the parts are put together. The service, the commands and a program
that uses SARK as a library all open a ``Runtime``::

    async with open_runtime(load()) as sark:
        answer = await sark.authorize(Request(user_id="u", action="server:read", resource="r"))
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass
from pathlib import Path

from sark.batch import BatchRequest, authorize_many
from sark.errors import ConfigurationError, SettingsError
from sark.events import Hub
from sark.gateway import Answer, Gateway, Request
from sark.keyring import mac_key
from sark.policy import PolicyCache, TtlTiers
from sark.policy.decisions import Decisions, Outcome
from sark.policy.evaluation import Evaluations
from sark.policy.evaluators import EmbeddedRego, Evaluator
from sark.policy.evaluators.opa import OpaHttp
from sark.policy.evaluators.opa_transport import OpaEndpoint
from sark.policy.freshness import FreshnessSigner
from sark.policy.generations import Generations
from sark.policy.hot import HotRequests
from sark.policy.near import NearCache
from sark.policy.near_feed import NearFeed
from sark.policy.policy_file import PolicyFile, read_policy_file
from sark.policy.question import check_text
from sark.policy.reload import PolicyReloader, PolicyWatcher, Reloaded, fingerprint
from sark.policy.warm_up import WarmUp
from sark.ratelimit import Limit, RateLimiter
from sark.settings import Settings
from sark.siem import EventQueue, QueueBounds
from sark.store import Store, Topology
from sark.store.embedded import EmbeddedServer
from sark.store.embedded.watch import keep_running

__all__ = ["Runtime", "generations_of", "open_runtime", "policy_directory"]

SAMPLE_POLICIES = Path("examples/policies")
REFUSALS_INTERVAL_SECONDS = 1.0
EVALUATION_GRACE_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Runtime:
    """What is open.

    Attributes:
        settings: The settings it was opened with.
        hub: Where all events go.
        store: The servers.
        gateway: The request path.
        hot: The log of the most asked questions.
        warm_up: Warms the cache from it when it is started.
        embedded: The embedded server, when no ``VALKEY_URL`` was given.
        policies: Reads the policies again.
        watcher: Does so by itself when their files change.
    """

    settings: Settings
    hub: Hub
    store: Store
    gateway: Gateway
    hot: HotRequests
    warm_up: WarmUp
    embedded: EmbeddedServer | None
    policies: PolicyReloader
    watcher: PolicyWatcher

    async def authorize(self, request: Request) -> Answer:
        """Decide a request; see ``Gateway.authorize``."""
        return await self.gateway.authorize(request)

    async def authorize_many(self, batch: BatchRequest) -> list[Answer]:
        """Decide up to a thousand requests of one user at once; see ``sark.batch``."""
        return await authorize_many(self.gateway, batch)

    async def decide(self, request: Request) -> Outcome:
        """Decide a request without charging a limit or recording an event.

        For callers who only want the policy's word: from the near cache it costs no round trip, and
        may then be as old as the near cache's bound (``SARK_NEAR_CACHE_BOUND_MS``). Otherwise
        Valkey is asked, within the budget of one request (``SARK_REQUEST_BUDGET_MS``).

        Raises:
            InvalidRequestError: A field is unusable.
            StoreError: Valkey did not answer in time.
        """
        question, _ = self.gateway.check(request)
        return await self.gateway.decisions.decide(
            question, consistency=request.consistency, freshness=request.freshness
        )

    async def invalidate_policy(self, policy: str) -> str:
        """Revoke every cached decision of one policy.

        Returns:
            A freshness token: a request that carries it is answered by later decisions only.

        Raises:
            UnknownPolicyError: It isn't served.
            StoreError: It may not have happened; ask again.
        """
        self.gateway.check_policy(policy)
        return await self.gateway.decisions.cache.generations.invalidate_policy(policy)

    async def invalidate_user(self, user_id: str) -> str:
        """Revoke every cached decision about one user; as ``invalidate_policy``."""
        check_text("user_id", user_id)
        return await self.gateway.decisions.cache.generations.invalidate_user(user_id)

    async def invalidate_all(self) -> str:
        """Revoke every cached decision; as ``invalidate_policy``."""
        return await self.gateway.decisions.cache.generations.invalidate_all()

    async def reload(self) -> Reloaded:
        """Read the policies again; see ``PolicyReloader.reload``."""
        return await self.policies.reload()


@contextlib.asynccontextmanager
async def open_runtime(
    settings: Settings, *, hub: Hub | None = None, ephemeral: bool = False
) -> AsyncIterator[Runtime]:
    """Open everything, and close it in the opposite order.

    Args:
        settings: What to open.
        hub: Where events go; subscribe before opening to see all of them.
        ephemeral: Let an embedded server forget its data at the end.

    Raises:
        ConfigurationError: The policies don't load or the embedded server doesn't start.
    """
    hub = hub or Hub()
    paths = _policy_paths(settings)
    seen = fingerprint(paths)
    rules = read_policy_file(settings.policy_file)
    rules.check(settings.policies)
    async with contextlib.AsyncExitStack() as stack:
        evaluator = await stack.enter_async_context(_open_evaluator(settings, hub))
        embedded = None
        topology = Topology.of(settings)
        if topology is None:
            embedded = EmbeddedServer(settings.data_dir, ephemeral=ephemeral)
            await stack.enter_async_context(embedded)
            # Ends before the server is stopped, so that it is not started again then.
            await stack.enter_async_context(background(keep_running(embedded), "sark-embedded"))
            topology = Topology.single(embedded.url)
        store = await stack.enter_async_context(Store(topology, settings, hub))
        hot = HotRequests(store, every=settings.hot_sample, keep=settings.hot_requests)
        stack.push_async_callback(hot.flush)
        await stack.enter_async_context(background(hot.flush_forever(), "sark-hot-requests"))
        decisions = _decisions(settings, store, evaluator, rules, hot)
        gateway = _gateway(settings, store, decisions)
        stack.push_async_callback(gateway.queue.close)
        stack.push_async_callback(decisions.evaluations.close)
        if decisions.near is not None:
            decisions.near.start()
            stack.push_async_callback(decisions.near.close)
        warm_up = WarmUp(
            decisions,
            hot,
            policies=settings.policies,
            rate=settings.warm_rate,
            ready_within=settings.warm_ready_ms / 1000,
            hub=hub,
        )
        stack.push_async_callback(warm_up.close)
        closing = gateway.refusals.close_due_forever(interval=REFUSALS_INTERVAL_SECONDS)
        await stack.enter_async_context(background(closing, "sark-refusals"))
        policies = _reloader(settings, decisions, hub)
        watcher = PolicyWatcher(policies, paths, seen, interval=settings.policy_watch_interval)
        await stack.enter_async_context(background(watcher.run(), "sark-policies"))
        yield Runtime(settings, hub, store, gateway, hot, warm_up, embedded, policies, watcher)


def policy_directory(settings: Settings) -> Path:
    """Find the policies: ``SARK_POLICY_DIR``, or the sample set when run from a checkout.

    Raises:
        ConfigurationError: Neither is there.
    """
    if settings.policy_dir is not None:
        return settings.policy_dir
    if SAMPLE_POLICIES.is_dir():
        return SAMPLE_POLICIES
    raise ConfigurationError("SARK_POLICY_DIR is not set: name the directory of the Rego policies")


@contextlib.asynccontextmanager
async def _open_evaluator(settings: Settings, hub: Hub) -> AsyncIterator[Evaluator]:
    """Open OPA when it is named, else the embedded engine."""
    if settings.opa_url is None:
        yield EmbeddedRego(policy_directory(settings), settings.policies)
        return
    opa = OpaHttp(
        OpaEndpoint.of(settings),
        timeout=settings.evaluator_timeout_ms / 1000,
        max_concurrent=settings.opa_pool_size,
        hub=hub,
    )
    async with opa, background(opa.watch(settings.opa_watch_interval), "sark-opa-watch"):
        yield opa


def _policy_paths(settings: Settings) -> list[Path]:
    """List what the policies are read from; OPA sees to its own."""
    paths = [] if settings.opa_url is not None else [policy_directory(settings)]
    return paths if settings.policy_file is None else [*paths, settings.policy_file]


def _reloader(settings: Settings, decisions: Decisions, hub: Hub) -> PolicyReloader:
    evaluator = decisions.evaluations.evaluator

    async def refresh() -> None:
        match evaluator:
            case EmbeddedRego():
                evaluator.reload()
            case OpaHttp():
                await evaluator.refresh()

    return PolicyReloader(
        decisions, refresh, policies=settings.policies, path=settings.policy_file, hub=hub
    )


def key_directory(settings: Settings) -> Path:
    """Find the folder of secret keys.

    Raises:
        SettingsError: It must be named, because other processes have to use the same one.
    """
    if settings.key_dir is not None:
        return settings.key_dir
    if settings.valkey_url is None:
        return settings.data_dir / "keys"
    raise SettingsError(
        "SARK_KEY_DIR: got nothing, expected the folder of the keys that all processes of this "
        "deployment share, because VALKEY_URL is set (an empty folder is filled)"
    )


def generations_of(
    settings: Settings, store: Store, signer: FreshnessSigner | None = None
) -> Generations:
    """Make what revokes decisions.

    Raises:
        ConfigurationError: The key that signs freshness tokens cannot be used.
    """
    return Generations(
        store,
        signer=signer or FreshnessSigner(mac_key(key_directory(settings))),
        user_token_ttl=2 * _tiers(settings).longest,
        replicas=settings.effective_wait_replicas,
    )


def _tiers(settings: Settings) -> TtlTiers:
    return TtlTiers(settings.ttl_high, settings.ttl_medium, settings.ttl_low)


def _decisions(
    settings: Settings, store: Store, evaluator: Evaluator, rules: PolicyFile, hot: HotRequests
) -> Decisions:
    tiers = _tiers(settings)
    signer = FreshnessSigner(mac_key(key_directory(settings)))
    generations = generations_of(settings, store, signer)
    cache = PolicyCache(
        store,
        generations,
        tiers,
        rules=rules,
        key_form=settings.cache_key,
        jitter=settings.ttl_jitter,
    )
    # OPA keeps its own, shorter time, so that its breaker hears of what takes too long.
    timeout = settings.evaluator_timeout_ms / 1000 + EVALUATION_GRACE_SECONDS
    return Decisions(
        cache,
        _near_feed(settings, store),
        Evaluations(evaluator, timeout=timeout, hub=store.hub),
        signer,
        store_timeout=settings.request_budget_ms / 1000,
        hot=hot if settings.hot_sample else None,
    )


def _near_feed(settings: Settings, store: Store) -> NearFeed | None:
    if not settings.near_cache_entries:
        return None
    near = NearCache(
        max_entries=settings.near_cache_entries,
        max_bytes=settings.near_cache_bytes,
        generation_key=store.keys.policy_generation,
    )
    return NearFeed(store, near, bound=settings.near_cache_bound_ms / 1000)


def _gateway(settings: Settings, store: Store, decisions: Decisions) -> Gateway:
    budget = settings.request_budget_ms / 1000
    limit = Limit(settings.limit_per_minute) if settings.limit_per_minute else None
    bounds = QueueBounds(settings.siem_max_events, settings.siem_max_bytes)
    return Gateway(
        store,
        policies=settings.policies,
        decisions=decisions,
        limiter=RateLimiter(store, limit),
        queue=EventQueue(store, bounds, flush_timeout=budget),
        budget=budget,
    )


@contextlib.asynccontextmanager
async def background(work: Coroutine[None, None, None], name: str) -> AsyncIterator[None]:
    """Run something beside the block, and cancel it at the end."""
    task = asyncio.create_task(work, name=name)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

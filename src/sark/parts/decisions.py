"""The decision cache, made from the settings."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from sark.events import Hub
from sark.keyring import mac_key
from sark.parts.background import background
from sark.parts.keys import key_directory
from sark.policy import PolicyCache, TtlTiers
from sark.policy.decisions import Decisions
from sark.policy.evaluation import Evaluations
from sark.policy.evaluators import Evaluator
from sark.policy.freshness import FreshnessSigner
from sark.policy.generations import Generations
from sark.policy.hot import HotRequests
from sark.policy.near import NearCache
from sark.policy.near_feed import NearFeed
from sark.policy.policy_file import PolicyFile
from sark.policy.warm_up import WarmUp
from sark.settings import Settings
from sark.store import Store

__all__ = ["decisions_of", "generations_of", "open_hot_requests", "warm_up_of"]

EVALUATION_GRACE_SECONDS = 0.05


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


def decisions_of(
    settings: Settings, store: Store, evaluator: Evaluator, rules: PolicyFile, hot: HotRequests
) -> Decisions:
    """Make what decides: the cache in Valkey, the near cache, and the engine behind both.

    Raises:
        ConfigurationError: The key that signs freshness tokens cannot be used.
    """
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
    # OPA keeps its own, shorter times, for the wait and for the answer, so that its breaker hears
    # of what takes too long.
    milliseconds = settings.evaluator_queue_ms + settings.evaluator_timeout_ms
    timeout = milliseconds / 1000 + EVALUATION_GRACE_SECONDS
    return Decisions(
        cache,
        _near_feed(settings, store),
        Evaluations(evaluator, timeout=timeout, hub=store.hub, most_at_once=settings.opa_pool_size),
        signer,
        store_timeout=settings.request_budget_ms / 1000,
        hot=hot if settings.hot_sample else None,
    )


@contextlib.asynccontextmanager
async def open_hot_requests(settings: Settings, store: Store) -> AsyncIterator[HotRequests]:
    """Open the log of the most asked questions; at the end it is flushed."""
    hot = HotRequests(store, every=settings.hot_sample, keep=settings.hot_requests)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(hot.flush)
        await stack.enter_async_context(background(hot.flush_forever(), "sark-hot-requests"))
        yield hot


def warm_up_of(settings: Settings, decisions: Decisions, hot: HotRequests, hub: Hub) -> WarmUp:
    """Make what warms the cache from that log when it is started."""
    return WarmUp(
        decisions,
        hot,
        policies=settings.policies,
        rate=settings.warm_rate,
        ready_within=settings.warm_ready_ms / 1000,
        hub=hub,
    )


def _tiers(settings: Settings) -> TtlTiers:
    return TtlTiers(settings.ttl_high, settings.ttl_medium, settings.ttl_low)


def _near_feed(settings: Settings, store: Store) -> NearFeed | None:
    if not settings.near_cache_entries:
        return None
    near = NearCache(
        max_entries=settings.near_cache_entries,
        max_bytes=settings.near_cache_bytes,
        generation_key=store.keys.policy_generation,
    )
    return NearFeed(store, near, bound=settings.near_cache_bound_ms / 1000)

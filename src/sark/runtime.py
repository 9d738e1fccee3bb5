"""Everything that one process holds: servers, engine, functions, gateway; opened from settings.

This is the one place where the parts are put together. The service, the commands and a program
that uses SARK as a library all open a ``Runtime``::

    async with open_runtime(load()) as sark:
        answer = await sark.authorize(Request(user_id="u", action="server:read", resource="r"))
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from sark.admission import Admission
from sark.batch import BatchRequest, authorize_many
from sark.errors import InvalidRequestError
from sark.events import Hub
from sark.file_watch import FileWatcher, fingerprint
from sark.gateway import Answer, Gateway, Request
from sark.parts.decisions import decisions_of, open_hot_requests, warm_up_of
from sark.parts.forwarding import Forwarding, open_forwarding
from sark.parts.gateway import open_gateway
from sark.parts.limits import default_limit
from sark.parts.policies import open_evaluator, policy_paths, policy_reloader
from sark.parts.servers import open_servers
from sark.parts.sessions import open_sessions
from sark.parts.spill import open_spill
from sark.parts.watching import watching
from sark.policy.decisions import Outcome
from sark.policy.hot import HotRequests
from sark.policy.policy_file import read_policy_file
from sark.policy.question import check_text
from sark.policy.reload import PolicyReloader, Reloaded
from sark.policy.warm_up import WarmUp
from sark.ratelimit.reload import LimitsReloader, ReloadedLimits
from sark.ratelimit.rules_file import read_rules
from sark.sessions import Sessions
from sark.sessions.tokens import JwtAccessTokens
from sark.settings import Settings
from sark.siem.sinks.registry import plan_sinks
from sark.siem.spill import Spill
from sark.store import Store
from sark.store.embedded import EmbeddedServer

__all__ = ["Runtime", "open_runtime"]


@dataclass(frozen=True, slots=True)
class Runtime:
    """What is open.

    Attributes:
        settings: The settings it was opened with.
        hub: Where all events go.
        store: The servers.
        gateway: The request path.
        forwarding: The sinks of audit events, and what forwards to them.
        spill: Where audit events wait that Valkey does not take; None when nothing may.
        hot: The log of the most asked questions.
        warm_up: Warms the cache from it when it is started.
        embedded: The embedded server, when no ``VALKEY_URL`` was given.
        tokens: Signs and verifies access tokens.
        sessions: Who is logged in.
        policies: Reads the policies again.
        watcher: Does so by itself when their files change.
        limits: Reads the limits file again.
        limits_watcher: Does so by itself when it changes.
    """

    settings: Settings
    hub: Hub
    store: Store
    gateway: Gateway
    forwarding: Forwarding
    spill: Spill | None
    hot: HotRequests
    warm_up: WarmUp
    embedded: EmbeddedServer | None
    tokens: JwtAccessTokens
    sessions: Sessions
    policies: PolicyReloader
    watcher: FileWatcher
    limits: LimitsReloader
    limits_watcher: FileWatcher

    @property
    def admission(self) -> Admission:
        """Begins, checks and ends sessions as the service does: recorded in the audit queue."""
        return self.gateway.admission

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
            InvalidRequestError: A field is unusable, or there is an access token, which nothing
                would check here.
            StoreError: Valkey did not answer in time.
        """
        if request.access_token is not None:
            raise InvalidRequestError("access_token", "decide() checks none; use authorize()")
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

    async def reload_limits(self) -> ReloadedLimits:
        """Read the limits file again; see ``LimitsReloader.reload``."""
        return await self.limits.reload()

    def request_reload(self) -> None:
        """Ask for all files to be read again soon; what comes of it is reported as events."""
        self.watcher.request()
        self.limits_watcher.request()


@contextlib.asynccontextmanager
async def open_runtime(
    settings: Settings,
    *,
    hub: Hub | None = None,
    ephemeral: bool = False,
    forward: bool = False,
) -> AsyncIterator[Runtime]:
    """Open everything, and close it in the opposite order.

    Args:
        settings: What to open.
        hub: Where events go; subscribe before opening to see all of them.
        ephemeral: Let an embedded server forget its data at the end.
        forward: Carry audit events to their sinks, as ``sark worker`` does.

    Raises:
        ConfigurationError: The policies don't load, a sink cannot be made, or the embedded server
            doesn't start.
        SinkError: A sink cannot be opened.
    """
    hub = hub or Hub()
    plans = plan_sinks(settings)
    paths = policy_paths(settings)
    seen = fingerprint(paths)
    rules = read_policy_file(settings.policy_file)
    rules.check(settings.policies)
    limits_paths = [] if settings.limits_file is None else [settings.limits_file]
    limits_seen = fingerprint(limits_paths)
    limit_rules = read_rules(settings.limits_file, default_limit(settings))
    async with contextlib.AsyncExitStack() as stack:
        evaluator = await stack.enter_async_context(open_evaluator(settings, hub))
        store, embedded = await stack.enter_async_context(
            open_servers(settings, hub, ephemeral=ephemeral)
        )
        hot = await stack.enter_async_context(open_hot_requests(settings, store))
        decisions = decisions_of(settings, store, evaluator, rules, hot)
        tokens, sessions = await stack.enter_async_context(
            open_sessions(settings, store, decisions.cache.generations)
        )
        # Closed after what appends to the queues, so that its last events may still be forwarded.
        forwarding = await stack.enter_async_context(
            open_forwarding(settings, store, plans, forward=forward)
        )
        spill = await stack.enter_async_context(open_spill(settings, hub))
        gateway = await stack.enter_async_context(
            open_gateway(settings, store, decisions, limit_rules, sessions, spill=spill)
        )
        warm_up = warm_up_of(settings, decisions, hot, hub)
        stack.push_async_callback(warm_up.close)
        policies = policy_reloader(settings, decisions, hub)
        interval = settings.policy_watch_interval
        watcher = await stack.enter_async_context(
            watching(policies, paths, seen, interval=interval, name="sark-policies")
        )
        limits = LimitsReloader(
            gateway.limiter, settings.limits_file, default_limit(settings), hub=hub
        )
        limits_watcher = await stack.enter_async_context(
            watching(limits, limits_paths, limits_seen, interval=interval, name="sark-limits")
        )
        yield Runtime(
            settings,
            hub,
            store,
            gateway,
            forwarding,
            spill,
            hot,
            warm_up,
            embedded,
            tokens,
            sessions,
            policies,
            watcher,
            limits,
            limits_watcher,
        )

"""Sessions and their tokens, opened from the settings."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator
from functools import partial

from sark.events import Hub
from sark.parts.background import background
from sark.parts.keys import key_directory, key_retention
from sark.policy.generations import Generations
from sark.sessions import AccessTokens, RefreshTokens, SessionRules, Sessions
from sark.sessions.clock_watch import watch_server_clock
from sark.sessions.refresh_keys import RefreshKeyFile, watch_refresh_keys
from sark.sessions.tokens import IssuerKeys, JwksClient, JwtAccessTokens, KeyFile, SigningKeys
from sark.settings import Settings
from sark.store import Store

__all__ = ["open_access_tokens", "open_refresh_tokens", "open_sessions", "sessions_of"]


@contextlib.asynccontextmanager
async def open_access_tokens(settings: Settings, hub: Hub) -> AsyncIterator[JwtAccessTokens]:
    """Open what signs and verifies access tokens, and keep its keys up to date.

    Raises:
        ConfigurationError: The signing keys cannot be used.
    """
    keys = SigningKeys(
        KeyFile(key_directory(settings)),
        algorithm=settings.token_algorithm,
        retention=key_retention(settings),
        hub=hub,
    )
    watching = background(keys.watch(settings.key_watch_interval), "sark-signing-keys")
    async with watching, _open_issuers(settings, hub) as outside:
        yield JwtAccessTokens(
            keys,
            issuer=settings.token_issuer,
            audience=settings.token_audience,
            leeway=settings.token_leeway,
            outside=outside,
            outside_audience=settings.trusted_audience or settings.token_audience,
            outside_types=settings.trusted_types,
            outside_user_prefix=""
            if settings.trusted_user_prefix == "none"
            else settings.trusted_user_prefix,
            outside_tier_claim=settings.trusted_tier_claim or "",
            cache_entries=settings.token_cache_entries,
        )


@contextlib.asynccontextmanager
async def _open_issuers(settings: Settings, hub: Hub) -> AsyncIterator[list[IssuerKeys]]:
    """Fetch the keys of the trusted issuers, now and from time to time."""
    if not settings.trusted_issuers:
        yield []
        return
    async with JwksClient() as client, contextlib.AsyncExitStack() as stack:
        found = []
        for trusted in settings.trusted_issuers:
            source = IssuerKeys(
                trusted.issuer,
                partial(client.fetch, trusted.issuer, trusted.jwks_url),
                refresh=settings.trusted_refresh,
                stale=settings.trusted_stale,
                hub=hub,
            )
            await stack.enter_async_context(background(source.run(), "sark-issuer-keys"))
            found.append(source)
        yield found


@contextlib.asynccontextmanager
async def open_refresh_tokens(settings: Settings) -> AsyncIterator[RefreshTokens]:
    """Open what makes and reads refresh tokens, and keep its keys up to date.

    Raises:
        ConfigurationError: The keys cannot be used.
    """
    file, retention = RefreshKeyFile(key_directory(settings)), settings.session_ttl
    keys = file.read_or_create()
    tokens = RefreshTokens(keys.active, keys.next, keys.counting(time.time(), retention))
    watching = watch_refresh_keys(
        tokens, file, retention=retention, interval=settings.key_watch_interval
    )
    async with background(watching, "sark-refresh-keys"):
        yield tokens


def sessions_of(
    settings: Settings,
    store: Store,
    tokens: AccessTokens,
    refresh_tokens: RefreshTokens,
    generations: Generations,
) -> Sessions:
    """Make what begins, checks and ends sessions."""
    return Sessions(
        store,
        tokens,
        refresh_tokens=refresh_tokens,
        rules=SessionRules(
            lifetime=settings.session_ttl,
            idle=settings.session_idle,
            access=settings.access_token_ttl,
            grace=settings.refresh_grace,
            cap=settings.session_cap,
            at_cap=settings.session_cap_policy,
            bind=settings.session_bind,
            adopt=settings.session_adopt,
            leeway=settings.token_leeway,
        ),
        issuer=settings.token_issuer,
        invalidate_user=generations.invalidate_user,
        replicas=settings.effective_wait_replicas,
    )


@contextlib.asynccontextmanager
async def open_sessions(
    settings: Settings, store: Store, generations: Generations
) -> AsyncIterator[tuple[JwtAccessTokens, Sessions]]:
    """Open sessions with their tokens, and what runs beside them.

    Raises:
        ConfigurationError: The keys cannot be used.
    """
    async with contextlib.AsyncExitStack() as stack:
        tokens = await stack.enter_async_context(open_access_tokens(settings, store.hub))
        refresh_tokens = await stack.enter_async_context(open_refresh_tokens(settings))
        sessions = sessions_of(settings, store, tokens, refresh_tokens, generations)
        await stack.enter_async_context(background(sessions.sweep_forever(), "sark-sessions"))
        clocks = watch_server_clock(store, leeway=settings.token_leeway)
        await stack.enter_async_context(background(clocks, "sark-server-clock"))
        yield tokens, sessions

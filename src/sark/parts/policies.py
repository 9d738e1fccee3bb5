"""What decides, opened from the settings."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from sark.errors import ConfigurationError
from sark.events import Hub
from sark.parts.background import background
from sark.policy.decisions import Decisions
from sark.policy.evaluators import EmbeddedRego, Evaluator
from sark.policy.evaluators.opa import OpaHttp
from sark.policy.evaluators.opa_transport import OpaEndpoint
from sark.policy.reload import PolicyReloader
from sark.settings import Settings

__all__ = ["open_evaluator", "policy_directory", "policy_paths", "policy_reloader"]

SAMPLE_POLICIES = Path("examples/policies")


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
async def open_evaluator(settings: Settings, hub: Hub) -> AsyncIterator[Evaluator]:
    """Open OPA when it is named, else the embedded engine."""
    if settings.opa_url is None:
        yield EmbeddedRego(policy_directory(settings), settings.policies)
        return
    opa = OpaHttp(
        OpaEndpoint.of(settings),
        timeout=settings.evaluator_timeout_ms / 1000,
        max_concurrent=settings.opa_pool_size,
        queue_timeout=settings.evaluator_queue_ms / 1000,
        hub=hub,
    )
    async with opa, background(opa.watch(settings.opa_watch_interval), "sark-opa-watch"):
        yield opa


def policy_paths(settings: Settings) -> list[Path]:
    """List what the policies are read from; OPA sees to its own."""
    paths = [] if settings.opa_url is not None else [policy_directory(settings)]
    return paths if settings.policy_file is None else [*paths, settings.policy_file]


def policy_reloader(settings: Settings, decisions: Decisions, hub: Hub) -> PolicyReloader:
    """Make what reads the policies again while the service runs."""
    evaluator = decisions.evaluations.evaluator

    async def refresh() -> None:
        match evaluator:
            case EmbeddedRego():
                await evaluator.reload()
            case OpaHttp():
                await evaluator.refresh()

    return PolicyReloader(
        decisions, refresh, policies=settings.policies, path=settings.policy_file, hub=hub
    )

"""Metrics and health of a worker, which serves nothing else."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import msgspec
from aiohttp import web

from sark.errors import ConfigurationError
from sark.events import Hub
from sark.ops.limiter_metrics import LimiterMetrics
from sark.ops.siem_metrics import ForwardingMetrics
from sark.ops.sinks import collect_sinks
from sark.parts.forwarding import Forwarding
from sark.store import Store

__all__ = ["serve_metrics"]

BUDGET_SECONDS = 1.0

_encode = msgspec.json.Encoder().encode


@contextlib.asynccontextmanager
async def serve_metrics(
    host: str, port: int, hub: Hub, store: Store, forwarding: Forwarding
) -> AsyncIterator[None]:
    """Serve ``/metrics``, ``/health/live`` and ``/health/ready`` beside the block.

    A worker is ready while Valkey answers. A receiver that is down doesn't make it less so: to
    replace the worker would not help.

    Raises:
        ConfigurationError: The port is taken.
    """
    store_metrics = LimiterMetrics(hub)
    metrics = ForwardingMetrics(hub, store_metrics.registry)

    async def show(_: web.Request) -> web.Response:
        sinks = await collect_sinks(forwarding, budget=BUDGET_SECONDS)
        metrics.show(sinks, forwarding.breakers.values())
        body, content_type = store_metrics.expose()
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def live(_: web.Request) -> web.Response:
        return _json({"status": "ok"})

    async def ready(_: web.Request) -> web.Response:
        servers = await store.check(timeout=BUDGET_SECONDS)
        is_ready = all(each.ok for each in servers if each.role == "state")
        states = [each.state for each in forwarding.forwarders.values()]
        # Anybody may ask; what receivers said is for the log.
        sinks = {
            each.sink: {"paused": [*each.paused], "failing": bool(each.failing)} for each in states
        }
        return _json({"ready": is_ready, "sinks": sinks}, 200 if is_ready else 503)

    app = web.Application()
    app.add_routes(
        [
            web.get("/metrics", show),
            web.get("/health/live", live),
            web.get("/health/ready", ready),
        ]
    )
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise ConfigurationError(
                f"cannot listen on {host}:{port} (--metrics-port): {error.strerror}"
            ) from None
        yield
    finally:
        await runner.cleanup()


def _json(document: object, status: int = 200) -> web.Response:
    return web.Response(body=_encode(document), status=status, content_type="application/json")

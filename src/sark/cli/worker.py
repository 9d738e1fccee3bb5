"""``sark worker``: carries audit events to their sinks, and does nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from typing import Annotated

import typer
import uvloop
from rich.console import Console
from rich.live import Live
from rich.text import Text

import sark
from sark.errors import ConfigurationError
from sark.events import Forwarded, Hub
from sark.ops.logs import configure_logs, report_events
from sark.ops.worker_http import serve_metrics
from sark.parts.access import check_access
from sark.parts.background import background
from sark.parts.forwarding import Forwarding, open_forwarding
from sark.settings import Settings, load
from sark.siem.sinks.registry import plan_sinks
from sark.store import Store, Topology

__all__ = ["worker"]

PROGRESS_SECONDS = 0.5


def worker(
    metrics_port: Annotated[
        int | None,
        typer.Option(
            "--metrics-port", min=1, max=65535, help="Serve /metrics and /health on this port."
        ),
    ] = None,
) -> None:
    """Forward audit events from Valkey to SARK_SIEM_SINKS; any number of workers may run.

    Needs VALKEY_URL: a service on an embedded Valkey forwards by itself. Needs SARK_SIEM_SINKS as
    the services have it. SIGTERM and Ctrl-C let it finish what is being sent and give the rest back
    to the queue.
    """
    settings = load()
    topology = Topology.of(settings)
    if topology is None:
        raise ConfigurationError(
            "VALKEY_URL is not set: a worker shares the Valkey of its services, and `sark serve` "
            "on an embedded one forwards by itself"
        )
    if settings.siem_sinks is None:
        # The default, a file here, would take what the services have queued for somewhere else.
        raise ConfigurationError(
            "SARK_SIEM_SINKS is not set: a worker needs the sinks as its services have them, such "
            "as splunk+https://host:8088, or file:///path/events.jsonl on this machine"
        )
    configure_logs(settings.log_level, settings.log_format)
    uvloop.run(_work(settings, topology, metrics_port))


async def _work(settings: Settings, topology: Topology, metrics_port: int | None) -> None:
    plans = plan_sinks(settings)
    hub = Hub()
    report_events(hub)
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    async with contextlib.AsyncExitStack() as stack:
        store = await stack.enter_async_context(Store(topology, settings, hub))
        await check_access(store)
        forwarding = await stack.enter_async_context(
            open_forwarding(settings, store, plans, forward=True)
        )
        if metrics_port is not None:
            await stack.enter_async_context(
                serve_metrics(settings.host, metrics_port, hub, store, forwarding)
            )
        _tell_start(forwarding)
        async with _progress(hub, forwarding):
            await stopped.wait()
        typer.echo("stopping: what is being sent is finished, the rest goes back", err=True)


def _tell_start(forwarding: Forwarding) -> None:
    typer.echo(f"SARK {sark.__version__} forwards audit events; Ctrl-C stops it.", err=True)
    for plan in forwarding.plans.values():
        typer.echo(f"  {plan.address} as {plan.format}", err=True)


@contextlib.asynccontextmanager
async def _progress(hub: Hub, forwarding: Forwarding) -> AsyncIterator[None]:
    """Show on a terminal how much was forwarded, in one line."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    events = size = 0

    def forwarded(event: Forwarded) -> None:
        nonlocal events, size
        events, size = events + event.events, size + event.bytes

    hub.on(Forwarded, forwarded)

    def line() -> Text:
        states = [each.state for each in forwarding.forwarders.values()]
        ill = [state.sink for state in states if state.paused or state.failing]
        trouble = f"; waiting for {', '.join(ill)}" if ill else ""
        return Text(f"{events:,} events forwarded, {size / 2**20:,.1f} MiB{trouble}")

    # Refreshed by our loop: its own thread would look at the forwarders in the middle of a step.
    with Live(console=console, auto_refresh=False) as live:

        async def refresh() -> None:
            while True:
                live.update(line(), refresh=True)
                await asyncio.sleep(PROGRESS_SECONDS)

        async with background(refresh(), "sark-progress"):
            yield

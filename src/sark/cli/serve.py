"""``sark serve``: the HTTP service."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import secrets
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated

import typer
import uvicorn
import uvloop
from pydantic import SecretStr

import sark
from sark.errors import ConfigurationError
from sark.events import Hub
from sark.http import create_app
from sark.http.header_limit import BoundedHeaders
from sark.http.jwks import JWKS_PATH
from sark.keyspace import Role
from sark.ops.logs import configure_logs, report_events
from sark.ops.metrics import Metrics
from sark.runtime import Runtime, open_runtime
from sark.settings import Settings, check_exposure, load, mask_url
from sark.store.datadir import DataDir

__all__ = ["serve"]

SHUTDOWN_SECONDS = 10
# The first connection of a process takes longer than one request may.
FIRST_CHECK_SECONDS = 1.0
COLLECTOR_THRESHOLDS = (50_000, 50, 50)


def serve(
    ephemeral: Annotated[
        bool,
        typer.Option("--ephemeral", help="Let the embedded Valkey forget its data at the end."),
    ] = False,
) -> None:
    """Serve authorizations over HTTP, on an embedded Valkey unless VALKEY_URL is set.

    Everything else is set by environment variables; `sark settings` lists them. SIGHUP makes
    it read the policies and the limits file again.
    """
    settings = load()
    check_exposure(settings)
    configure_logs(settings.log_level, settings.log_format)
    # Until it serves, both signals give the start up, and what was started is stopped again.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    uvloop.run(_serve(settings, ephemeral=ephemeral))


async def _serve(settings: Settings, *, ephemeral: bool) -> None:
    settings, generated_token = _with_admin_token(settings)
    with contextlib.ExitStack() as stack:
        data_dir = None
        if settings.valkey_url is None:
            data_dir = stack.enter_context(DataDir(settings.data_dir))
        listener = stack.enter_context(_listen(settings))
        hub = Hub()
        metrics = Metrics(hub)
        report_events(hub)
        async with open_runtime(
            settings, hub=hub, ephemeral=ephemeral, forward=settings.siem_forward
        ) as runtime:
            address = _http_address(settings, listener)
            missing = await _missing_parts(runtime)
            if settings.warm_on_start:
                runtime.warm_up.start()
            server = _Server(_config(runtime, metrics))
            if data_dir is not None and runtime.embedded is not None:
                token = settings.admin_token
                data_dir.write_run_file(
                    valkey_url=runtime.embedded.url,
                    http=address,
                    admin_token=token.get_secret_value() if token else None,
                )
            _reload_on_hangup(runtime, server)
            server.when_started = lambda: _print_summary(runtime, address, generated_token, missing)
            _settle_collector()
            await server.serve(sockets=[listener])


def _settle_collector() -> None:
    """Take what the start has made out of the garbage collector's sight, and run it less often.

    A request makes hundreds of short-lived objects and hardly any cycles; with the default
    thresholds a seventh of the service's time goes into looking for them.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTOR_THRESHOLDS)


def _with_admin_token(settings: Settings) -> tuple[Settings, str | None]:
    """Generate an admin token for a development service that was given none."""
    if settings.admin_token is not None or settings.valkey_url is not None:
        return settings, None
    token = secrets.token_urlsafe(24)
    return settings.model_copy(update={"admin_token": SecretStr(token)}), token


def _reload_on_hangup(runtime: Runtime, server: uvicorn.Server) -> None:
    """Read the files again on SIGHUP; when it says that the terminal is gone, stop instead."""
    had_terminal = _has_terminal()

    def hung_up() -> None:
        if had_terminal and not _has_terminal():
            server.handle_exit(signal.SIGTERM, None)
        else:
            runtime.request_reload()

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hung_up)


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _listen(settings: Settings) -> socket.socket:
    """Bind before anything else is started, so that a taken port is told at once."""
    host, port = settings.host, settings.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        reason = str(error.strerror or error).partition(" (while attempting")[0]
        raise ConfigurationError(
            f"cannot listen on {host}:{port} (SARK_HOST, SARK_PORT): {reason}"
        ) from None


def _http_address(settings: Settings, listener: socket.socket) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{listener.getsockname()[1]}"


def _config(runtime: Runtime, metrics: Metrics) -> uvicorn.Config:
    return uvicorn.Config(
        create_app(runtime, metrics),
        loop="uvloop",
        http=BoundedHeaders,
        lifespan="off",
        log_config=None,
        access_log=False,
        # Whom to believe is decided once, by TrustedProxies; it needs the peer as it is.
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )


class _Server(uvicorn.Server):
    """Tells when it accepts connections, and stops without killing the process.

    uvicorn would raise the signal again once it has stopped serving, which ends the process before
    the audit queue is flushed and the embedded server is stopped.
    """

    when_started: Callable[[], None] | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop serving on SIGINT and SIGTERM; a second SIGINT does not wait for requests.

        The handlers stay: what remains to be done after serving is short, and a repeated signal
        must not cut it off.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and self.when_started is not None:
            self.when_started()


async def _missing_parts(runtime: Runtime) -> list[str]:
    """Ask what requests depend on; returns what is wrong, a line for each part."""
    budget = max(runtime.settings.request_budget_ms / 1000, FIRST_CHECK_SECONDS)
    engine = runtime.gateway.decisions.evaluations.evaluator
    servers, reason = await asyncio.gather(runtime.store.check(timeout=budget), engine.ready())
    # A cache server that is away costs evaluations, not answers.
    parts = [
        f"valkey {health.role}: {_one_line(health.reason)}"
        for health in servers
        if not health.ok and health.role == Role.STATE
    ]
    return parts if reason is None else [*parts, f"evaluator: {_one_line(reason)}"]


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _print_summary(
    runtime: Runtime, address: str, generated_token: str | None, missing: Sequence[str]
) -> None:
    """Say what runs where; the generated admin token is shown here and nowhere else."""
    settings = runtime.settings
    decisions = runtime.gateway.decisions
    rows = {
        "service": f"{address}/v1/authorize",
        "explore": f"{address}/docs  {address}/metrics  {address}/health/ready",
        "valkey": _valkey(runtime),
        "policies": f"{', '.join(settings.policies)}, revision {decisions.revision}",
        "engine": decisions.evaluations.evaluator.description,
        "limits": _limits(runtime),
        "audit": _audit(runtime),
        "tokens": _tokens(runtime),
        "public keys": f"{address}{JWKS_PATH}",
        "callers": "need the service token" if settings.service_token else "need no credential",
    }
    if generated_token is not None:
        rows["admin token"] = f"{generated_token}  (generated for this run, shown once)"
    elif settings.admin_token is None:
        rows["admin"] = "routes are closed: SARK_ADMIN_TOKEN is not set"
    rows["try"] = "sark authorize user-0001 server:read server/web-001"
    if not missing:
        typer.echo(f"SARK {sark.__version__} is ready; Ctrl-C stops it.")
    for part in missing:
        typer.echo(f"SARK {sark.__version__} runs, but is not ready: {part}")
    for label, text in rows.items():
        typer.echo(f"  {label:<12} {text}")
    sys.stdout.flush()


def _audit(runtime: Runtime) -> str:
    """Say where audit events go, and who carries them there."""
    sinks = [str(plan.address) for plan in runtime.forwarding.plans.values()]
    if runtime.forwarding.forwarders:
        return f"forwarded to {', '.join(sinks)}"
    return f"queued for {', '.join(sinks)}; `sark worker` forwards"


def _tokens(runtime: Runtime) -> str:
    settings = runtime.settings
    issuers = [settings.token_issuer, *(each.issuer for each in settings.trusted_issuers or ())]
    signed = f"signed with {runtime.tokens.algorithm}, accepted from {', '.join(issuers)}"
    return f"{signed}; at most {settings.session_cap:,} sessions of each user"


def _limits(runtime: Runtime) -> str:
    rules = runtime.gateway.limiter.rules
    each = rules.default and f"{rules.default.requests:,} a minute for each user, ip and api key"
    if not rules.rules:
        return each or "off"
    return f"{len(rules.rules)} rules, else {each or 'none'}"


def _valkey(runtime: Runtime) -> str:
    if runtime.embedded is not None:
        return f"embedded, {runtime.embedded.address}"
    settings = runtime.settings
    urls = [url for url in (settings.valkey_url, settings.valkey_state_url) if url is not None]
    return ", ".join(mask_url(url.get_secret_value()) for url in urls)

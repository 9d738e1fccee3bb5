"""The HTTP service: where it listens, whom it answers, what it reads."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field, SecretStr

from sark.settings import _kinds as kinds
from sark.settings._choices import LogFormat, LogLevel, ProxyHeader
from sark.settings._kinds import TrustedNetwork

__all__ = ["ServiceSettings"]

_TOKEN = kinds.secret("at least 16 printable ASCII characters without spaces", r"[!-~]{16,}")


class ServiceSettings(BaseModel):
    """The HTTP service: where it listens, whom it answers, what it reads."""

    host: Annotated[str, kinds.host()] = Field(
        default="127.0.0.1",
        validation_alias="SARK_HOST",
        description=(
            "Where the service listens. Beyond loopback it needs `SARK_SERVICE_TOKEN` or "
            "`SARK_ALLOW_ANONYMOUS=true`."
        ),
    )
    port: Annotated[int, kinds.whole(0, 65_535)] = Field(
        default=8000,
        validation_alias="SARK_PORT",
        description="Port on which the service listens; 0 takes any free one.",
    )
    trusted_proxies: Annotated[tuple[TrustedNetwork, ...] | None, kinds.networks()] = Field(
        default=None,
        validation_alias="SARK_TRUSTED_PROXIES",
        description=(
            "Networks of the proxies that are believed where a request came from. Unset, like "
            "`SARK_TRUSTED_PROXY_COUNT`: the client's address is the peer's."
        ),
    )
    trusted_proxy_count: Annotated[int | None, kinds.whole(1, 32, "proxies")] = Field(
        default=None,
        validation_alias="SARK_TRUSTED_PROXY_COUNT",
        description=(
            "How many proxies a request passes before it arrives here. With "
            "`SARK_TRUSTED_PROXIES` each of them must also be in one of the networks."
        ),
    )
    proxy_header: Annotated[ProxyHeader, kinds.choice("x-forwarded-for", "forwarded")] = Field(
        default="x-forwarded-for",
        validation_alias="SARK_PROXY_HEADER",
        description="Where trusted proxies write the address; the other header is never read.",
    )
    admin_token: Annotated[SecretStr | None, _TOKEN] = Field(
        default=None,
        validation_alias="SARK_ADMIN_TOKEN",
        description="Bearer token of administrators. Unset: admin routes are closed.",
    )
    service_token: Annotated[SecretStr | None, _TOKEN] = Field(
        default=None,
        validation_alias="SARK_SERVICE_TOKEN",
        description=(
            "Bearer token of calling services; differs from the admin token. Unset: callers need "
            "no credential."
        ),
    )
    allow_anonymous: Annotated[bool, kinds.flag()] = Field(
        default=False,
        validation_alias="SARK_ALLOW_ANONYMOUS",
        description="Whether to listen beyond loopback although callers need no credential.",
    )
    user_context: Annotated[bool, kinds.flag()] = Field(
        default=True,
        validation_alias="SARK_USER_CONTEXT",
        description=(
            "Whether users who ask with their own access token may name a `context`. Policies "
            "can't tell it from that of a trusted caller."
        ),
    )
    max_body_bytes: Annotated[int, kinds.whole(1024, 16 * 2**20, "bytes")] = Field(
        default=65_536,
        validation_alias="SARK_MAX_BODY_BYTES",
        description="Largest request body that is read.",
    )
    max_batch_body_bytes: Annotated[int, kinds.whole(1024, 64 * 2**20, "bytes")] = Field(
        default=2**20,
        validation_alias="SARK_MAX_BATCH_BODY_BYTES",
        description="Largest body of a batch of requests that is read.",
    )
    request_budget_ms: Annotated[int, kinds.whole(1, 60_000, "milliseconds")] = Field(
        default=250,
        validation_alias="SARK_REQUEST_BUDGET_MS",
        description="Time for all round trips to Valkey of one request together.",
    )
    log_level: Annotated[LogLevel, kinds.choice("debug", "info", "warning", "error")] = Field(
        default="info",
        validation_alias="SARK_LOG_LEVEL",
        description="Least severe level that is logged.",
    )
    log_format: Annotated[LogFormat, kinds.choice("json", "console", "auto")] = Field(
        default="auto",
        validation_alias="SARK_LOG_FORMAT",
        description="Form of log lines; `auto` is `console` on a terminal, else `json`.",
    )

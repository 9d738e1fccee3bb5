"""How Valkey is reached."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field, SecretStr

from sark.settings import _kinds as kinds
from sark.settings._choices import Topology
from sark.settings._kinds import HostPort
from sark.settings._urls import ServerUrl

__all__ = ["ValkeySettings"]


class ValkeySettings(BaseModel):
    """How Valkey is reached."""

    valkey_url: Annotated[ServerUrl | None, kinds.server_url()] = Field(
        default=None,
        validation_alias="VALKEY_URL",
        description="The Valkey server, for both roles. Unset: an embedded server is started.",
    )
    valkey_state_url: Annotated[ServerUrl | None, kinds.server_url()] = Field(
        default=None,
        validation_alias="VALKEY_STATE_URL",
        description=(
            "A separate server for state (sessions, limits, the audit queue), which must not "
            "evict; `VALKEY_URL` then serves the cache alone. Unset: `VALKEY_URL` serves both."
        ),
    )
    valkey_password: Annotated[
        SecretStr | None, kinds.secret("UTF-8 text", r"[^\ud800-\udfff]+")
    ] = Field(
        default=None,
        validation_alias="VALKEY_PASSWORD",
        description="Password for servers whose URL holds none.",
    )
    valkey_pool_size: Annotated[int, kinds.whole(1, 10_000, "connections")] = Field(
        default=20,
        validation_alias="VALKEY_POOL_SIZE",
        description="Most connections that this process opens to each server.",
    )
    valkey_socket_timeout: Annotated[float, kinds.number(0, 300, "seconds", above=True)] = Field(
        default=5.0,
        validation_alias="VALKEY_SOCKET_TIMEOUT",
        description="Longest wait for an answer on a connection.",
    )
    valkey_socket_connect_timeout: Annotated[float, kinds.number(0, 300, "seconds", above=True)] = (
        Field(
            default=2.0,
            validation_alias="VALKEY_SOCKET_CONNECT_TIMEOUT",
            description="Longest wait for a connection to open.",
        )
    )
    valkey_health_check_interval: Annotated[float, kinds.number(0, 86_400, "seconds")] = Field(
        default=30.0,
        validation_alias="VALKEY_HEALTH_CHECK_INTERVAL",
        description="Idle time after which a connection is checked before use; 0 switches it off.",
    )
    valkey_sentinel_hosts: Annotated[tuple[HostPort, ...] | None, kinds.hosts_and_ports()] = Field(
        default=None,
        validation_alias="VALKEY_SENTINEL_HOSTS",
        description="Sentinels that know the primary. Implies `SARK_TOPOLOGY=sentinel`.",
    )
    valkey_sentinel_master: Annotated[
        str | None, kinds.text("a name of letters, digits, '.', '_', '-'", r"[A-Za-z0-9._-]+")
    ] = Field(
        default=None,
        validation_alias="VALKEY_SENTINEL_MASTER",
        description="Name under which the Sentinels know the primary.",
    )
    topology: Annotated[Topology, kinds.choice("single", "sentinel", "cluster")] = Field(
        default="single",
        validation_alias="SARK_TOPOLOGY",
        description="How Valkey is deployed. This version supports `single` only.",
    )
    wait_replicas: Annotated[int | None, kinds.whole(0, 16, "replicas")] = Field(
        default=None,
        validation_alias="SARK_WAIT_REPLICAS",
        description=(
            "Replicas that must confirm an invalidation before it returns. Unset: by topology, "
            "1 with Sentinel, else 0."
        ),
    )

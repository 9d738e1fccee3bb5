"""The settings themselves, in the order in which they are documented."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, ModelWrapValidatorHandler, SecretStr, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from sark.errors import SettingsError
from sark.settings import _kinds as kinds
from sark.settings._environment import EnvironmentSource, variable_of
from sark.settings._kinds import HostPort, Kind, TrustedIssuer, TrustedNetwork
from sark.settings._rules import (
    CacheKey,
    LegacyHeaders,
    LimitsWithoutValkey,
    LogFormat,
    LogLevel,
    ProxyHeader,
    SentHeaders,
    SessionBind,
    SessionCapPolicy,
    TokenAlgorithm,
    Topology,
    conflicts,
)
from sark.settings._urls import ServerUrl

_TOKEN = kinds.secret("at least 16 printable ASCII characters without spaces", r"[!-~]{16,}")

_TOKEN_NAME = kinds.text("1 to 256 printable ASCII characters without spaces", r"[!-~]{1,256}")


class Settings(BaseSettings):
    """All settings of one process, validated and frozen.

    Values come from the environment; arguments, by attribute name, take precedence.

    Raises:
        SettingsError: If a value isn't accepted; one line for each.
    """

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        populate_by_name=True,
        case_sensitive=True,
        hide_input_in_errors=True,
        env_file=None,
    )

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
    ratelimit_headers: Annotated[SentHeaders, kinds.choice("always", "refused", "off")] = Field(
        default="always",
        validation_alias="SARK_RATELIMIT_HEADERS",
        description=(
            "Which answers carry `RateLimit` and `RateLimit-Policy`: all that were charged, the "
            "refused (429), or none. `Retry-After` is sent with every 429."
        ),
    )
    legacy_ratelimit_headers: Annotated[LegacyHeaders, kinds.choice("off", "seconds", "epoch")] = (
        Field(
            default="off",
            validation_alias="SARK_LEGACY_RATELIMIT_HEADERS",
            description=(
                "Whether they carry `X-RateLimit-Limit`, `-Remaining` and `-Reset` too, the last "
                "in seconds from now or as Unix time."
            ),
        )
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
    policies: Annotated[tuple[str, ...], kinds.names("[a-z][a-z0-9_]{0,63}")] = Field(
        default=("authz",),
        validation_alias="SARK_POLICIES",
        description="Policies that requests may name.",
    )
    policy_dir: Annotated[Path | None, kinds.path()] = Field(
        default=None,
        validation_alias="SARK_POLICY_DIR",
        description=(
            "Folder of `.rego` files and their `.json` or `.yaml` data. Required unless run from "
            "a checkout, whose `examples/policies` are then used."
        ),
    )
    policy_file: Annotated[Path | None, kinds.path()] = Field(
        default=None,
        validation_alias="SARK_POLICY_FILE",
        description=(
            "TOML file of the actions' sensitivity and of what each policy sees of a request. "
            "Unset: the built-in table of actions, and the context as it comes."
        ),
    )
    policy_watch_interval: Annotated[float, kinds.number(0, 3600, "seconds")] = Field(
        default=1.0,
        validation_alias="SARK_POLICY_WATCH_INTERVAL",
        description=(
            "How often the files of policies and limits are looked at; what has changed is read "
            "again. 0 switches it off."
        ),
    )
    opa_url: Annotated[str | None, kinds.opa_url()] = Field(
        default=None,
        validation_alias="OPA_URL",
        description=(
            "Where OPA answers. Unset: policies are evaluated in process, from `SARK_POLICY_DIR`."
        ),
    )
    opa_token: Annotated[
        SecretStr | None, kinds.secret("printable ASCII characters without spaces", r"[!-~]+")
    ] = Field(
        default=None,
        validation_alias="OPA_TOKEN",
        description="Bearer token for OPA.",
    )
    opa_ca_file: Annotated[Path | None, kinds.path()] = Field(
        default=None,
        validation_alias="OPA_CA_FILE",
        description=(
            "PEM file of the authorities to trust for OPA's certificate, instead of the system's."
        ),
    )
    opa_client_cert_file: Annotated[Path | None, kinds.path()] = Field(
        default=None,
        validation_alias="OPA_CLIENT_CERT_FILE",
        description="PEM file of the certificate, with its chain, that is shown to OPA.",
    )
    opa_client_key_file: Annotated[Path | None, kinds.path()] = Field(
        default=None,
        validation_alias="OPA_CLIENT_KEY_FILE",
        description="PEM file of the key of `OPA_CLIENT_CERT_FILE`, not encrypted.",
    )
    opa_pool_size: Annotated[int, kinds.whole(1, 10_000, "connections")] = Field(
        default=50,
        validation_alias="SARK_OPA_POOL_SIZE",
        description="Most connections to OPA, and so most evaluations at a time, of this process.",
    )
    opa_watch_interval: Annotated[float, kinds.number(0, 3600, "seconds", above=True)] = Field(
        default=5.0,
        validation_alias="SARK_OPA_WATCH_INTERVAL",
        description="How often OPA is asked whether its policies have changed.",
    )
    data_dir: Annotated[Path, kinds.path()] = Field(
        default=Path(".sark"),
        validation_alias="SARK_DATA_DIR",
        description="Folder of what must survive a restart, such as the embedded server's data.",
    )
    key_dir: Annotated[Path | None, kinds.path()] = Field(
        default=None,
        validation_alias="SARK_KEY_DIR",
        description=(
            "Folder of the secret keys that all processes of a deployment share; an empty one is "
            "filled at the first start. Required with `VALKEY_URL`; otherwise `keys` in the data "
            "folder."
        ),
    )
    key_watch_interval: Annotated[float, kinds.number(0, 3600, "seconds", above=True)] = Field(
        default=1.0,
        validation_alias="SARK_KEY_WATCH_INTERVAL",
        description="How often the folder of keys is looked at for a rotation of signing keys.",
    )
    token_issuer: Annotated[str, _TOKEN_NAME] = Field(
        default="sark",
        validation_alias="SARK_TOKEN_ISSUER",
        description="Who issues access tokens (`iss`), usually the public URL of this service.",
    )
    token_audience: Annotated[str, _TOKEN_NAME] = Field(
        default="sark",
        validation_alias="SARK_TOKEN_AUDIENCE",
        description="Whom access tokens are for (`aud`); others are refused.",
    )
    token_algorithm: Annotated[TokenAlgorithm, kinds.choice("EdDSA", "RS256")] = Field(
        default="EdDSA",
        validation_alias="SARK_TOKEN_ALGORITHM",
        description="What new signing keys sign with; keys that are there keep theirs.",
    )
    token_leeway: Annotated[int, kinds.whole(0, 300, "seconds")] = Field(
        default=30,
        validation_alias="SARK_TOKEN_LEEWAY",
        description="How far clocks may differ when the times in a token are checked.",
    )
    token_cache_entries: Annotated[int, kinds.whole(0, 10_000_000, "entries")] = Field(
        default=10_000,
        validation_alias="SARK_TOKEN_CACHE_ENTRIES",
        description=(
            "Most access tokens whose signature is remembered as verified, in each process; 0 "
            "verifies each time."
        ),
    )
    trusted_issuers: Annotated[tuple[TrustedIssuer, ...] | None, kinds.trusted_issuers()] = Field(
        default=None,
        validation_alias="SARK_TRUSTED_ISSUERS",
        description="Outside identity providers whose access tokens are accepted.",
    )
    trusted_audience: Annotated[str | None, _TOKEN_NAME] = Field(
        default=None,
        validation_alias="SARK_TRUSTED_AUDIENCE",
        description="Whom their tokens must be for (`aud`). Unset: `SARK_TOKEN_AUDIENCE`.",
    )
    trusted_types: Annotated[tuple[str, ...], kinds.names("[A-Za-z0-9+./-]{1,64}")] = Field(
        default=("at+jwt",),
        validation_alias="SARK_TRUSTED_TYPES",
        description=(
            "Values of `typ` that their tokens may have. Providers from before RFC 9068 write "
            "`JWT`, in identity tokens too, which only the audience then keeps out."
        ),
    )
    trusted_refresh: Annotated[int, kinds.whole(10, 86_400, "seconds")] = Field(
        default=300,
        validation_alias="SARK_TRUSTED_REFRESH",
        description="How often their keys are fetched.",
    )
    trusted_stale: Annotated[int, kinds.whole(60, 604_800, "seconds")] = Field(
        default=3600,
        validation_alias="SARK_TRUSTED_STALE",
        description="How long their keys stay in use after the last answer.",
    )
    request_budget_ms: Annotated[int, kinds.whole(1, 60_000, "milliseconds")] = Field(
        default=250,
        validation_alias="SARK_REQUEST_BUDGET_MS",
        description="Time for all round trips to Valkey of one request together.",
    )
    evaluator_timeout_ms: Annotated[int, kinds.whole(1, 60_000, "milliseconds")] = Field(
        default=1000,
        validation_alias="SARK_EVALUATOR_TIMEOUT_MS",
        description="Time for the policy engine to decide one request, once it is its turn.",
    )
    evaluator_queue_ms: Annotated[int, kinds.whole(0, 60_000, "milliseconds")] = Field(
        default=5000,
        validation_alias="SARK_EVALUATOR_QUEUE_MS",
        description=(
            "Longest time that a request waits for its turn when `SARK_OPA_POOL_SIZE` evaluations "
            "are under way; then it is denied as `busy`."
        ),
    )
    limit_per_minute: Annotated[int, kinds.whole(0, 10**9, "requests per minute")] = Field(
        default=1000,
        validation_alias="SARK_LIMIT_PER_MINUTE",
        description=(
            "Limit for each user, IP address and API key that a request names, unless a rule of "
            "`SARK_LIMITS_FILE` says otherwise; 0: no limit but those."
        ),
    )
    limits_file: Annotated[Path | None, kinds.path()] = Field(
        default=None,
        validation_alias="SARK_LIMITS_FILE",
        description=(
            "TOML file of the rules of rate limits. Unset: `SARK_LIMIT_PER_MINUTE` for everybody."
        ),
    )
    limits_without_valkey: Annotated[
        LimitsWithoutValkey, kinds.choice("local", "open", "closed")
    ] = Field(
        default="local",
        validation_alias="SARK_LIMITS_WITHOUT_VALKEY",
        description=(
            "What a limit that is checked by itself does while Valkey does not answer: `local` "
            "counts in each process, `open` admits, `closed` fails. `authorize` fails anyway."
        ),
    )
    expected_processes: Annotated[int, kinds.whole(1, 100_000, "processes")] = Field(
        default=1,
        validation_alias="SARK_EXPECTED_PROCESSES",
        description="Processes that share the limits: each counts its part while it is `local`.",
    )
    limit_ipv6_prefix: Annotated[int, kinds.whole(1, 128, "bits")] = Field(
        default=64,
        validation_alias="SARK_LIMIT_IPV6_PREFIX",
        description="By how much of an IPv6 address it is limited; 128: each address by itself.",
    )
    ttl_high: Annotated[int, kinds.whole(1, 86_400, "seconds")] = Field(
        default=300,
        validation_alias="SARK_TTL_HIGH",
        description="How long decisions of high sensitivity are cached; the shortest.",
    )
    ttl_medium: Annotated[int, kinds.whole(1, 86_400, "seconds")] = Field(
        default=900,
        validation_alias="SARK_TTL_MEDIUM",
        description="How long decisions of medium sensitivity are cached.",
    )
    ttl_low: Annotated[int, kinds.whole(1, 86_400, "seconds")] = Field(
        default=3600,
        validation_alias="SARK_TTL_LOW",
        description="How long decisions of low sensitivity are cached; the longest.",
    )
    ttl_jitter: Annotated[float, kinds.number(0, 0.5, "share of the TTL")] = Field(
        default=0.1,
        validation_alias="SARK_TTL_JITTER",
        description=(
            "Most that is taken off a decision's TTL at random, so that decisions stored together "
            "do not expire together; 0 switches it off."
        ),
    )
    cache_key: Annotated[CacheKey, kinds.choice("full", "compact")] = Field(
        default="full",
        validation_alias="SARK_CACHE_KEY",
        description=(
            "Form of the keys of cached decisions: `full` is the SHA-256 in hex, `compact` is "
            "shorter and takes less memory. Processes that share a cache must agree."
        ),
    )
    near_cache_entries: Annotated[int, kinds.whole(0, 10_000_000, "entries")] = Field(
        default=10_000,
        validation_alias="SARK_NEAR_CACHE_ENTRIES",
        description=(
            "Most decisions kept in each process, next to those in Valkey; 0 switches the near "
            "cache off."
        ),
    )
    near_cache_bytes: Annotated[int, kinds.whole(1024, 2**36, "bytes")] = Field(
        default=16 * 2**20,
        validation_alias="SARK_NEAR_CACHE_BYTES",
        description="Most bytes of the near cache, estimated.",
    )
    near_cache_bound_ms: Annotated[int, kinds.whole(10, 60_000, "milliseconds")] = Field(
        default=250,
        validation_alias="SARK_NEAR_CACHE_BOUND_MS",
        description=(
            "Longest time that the near cache, used without a round trip, may lag behind an "
            "invalidation. Requests through `authorize` never do."
        ),
    )
    hot_sample: Annotated[int, kinds.whole(0, 1_000_000)] = Field(
        default=16,
        validation_alias="SARK_HOT_SAMPLE",
        description=(
            "One in so many answered questions is counted in the log of the most asked, from "
            "which caches are warmed; 0 counts none."
        ),
    )
    hot_requests: Annotated[int, kinds.whole(1, 10_000, "questions")] = Field(
        default=1000,
        validation_alias="SARK_HOT_REQUESTS",
        description="Most questions in the log of the most asked.",
    )
    warm_on_start: Annotated[bool, kinds.flag()] = Field(
        default=True,
        validation_alias="SARK_WARM_ON_START",
        description="Whether the service decides the most asked questions when it starts.",
    )
    warm_rate: Annotated[int, kinds.whole(1, 100_000, "evaluations per second")] = Field(
        default=200,
        validation_alias="SARK_WARM_RATE",
        description="Most evaluations for warming the cache.",
    )
    warm_ready_ms: Annotated[int, kinds.whole(0, 600_000, "milliseconds")] = Field(
        default=0,
        validation_alias="SARK_WARM_READY_MS",
        description=(
            "Longest time that `/health/ready` says no because the cache is still being warmed; 0: "
            "it doesn't wait for that."
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
    siem_max_events: Annotated[int, kinds.whole(1, 10**9, "entries")] = Field(
        default=100_000,
        validation_alias="SARK_SIEM_MAX_EVENTS",
        description="Most audit events in the queue.",
    )
    siem_max_bytes: Annotated[int, kinds.whole(1024, 2**40, "bytes")] = Field(
        default=256 * 2**20,
        validation_alias="SARK_SIEM_MAX_BYTES",
        description="Largest size of the audit events in the queue together.",
    )
    wait_replicas: Annotated[int | None, kinds.whole(0, 16, "replicas")] = Field(
        default=None,
        validation_alias="SARK_WAIT_REPLICAS",
        description=(
            "Replicas that must confirm an invalidation before it returns. Unset: by topology, "
            "1 with Sentinel, else 0."
        ),
    )
    session_ttl: Annotated[int, kinds.whole(60, 366 * 86_400, "seconds")] = Field(
        default=7 * 86_400,
        validation_alias="SARK_SESSION_TTL",
        description="Longest life of a session, however it is used.",
    )
    session_idle: Annotated[int, kinds.whole(120, 366 * 86_400, "seconds")] = Field(
        default=86_400,
        validation_alias="SARK_SESSION_IDLE",
        description=(
            "Time without use after which a session ends. Its use is noted once a minute, so it "
            "may end up to a minute early."
        ),
    )
    session_cap: Annotated[int, kinds.whole(1, 1000, "sessions")] = Field(
        default=10,
        validation_alias="SARK_SESSION_CAP",
        description="Most sessions of one user at a time.",
    )
    session_cap_policy: Annotated[SessionCapPolicy, kinds.choice("end_oldest", "refuse")] = Field(
        default="end_oldest",
        validation_alias="SARK_SESSION_CAP_POLICY",
        description=(
            "What a login beyond the cap does: `end_oldest` ends the session that was used longest "
            "ago, `refuse` refuses the login."
        ),
    )
    session_bind: Annotated[SessionBind, kinds.choice("none", "network", "user_agent", "both")] = (
        Field(
            default="none",
            validation_alias="SARK_SESSION_BIND",
            description=(
                "What sessions are bound to: the network that they began in (/24, with IPv6 /64), "
                "the user agent that began them, both or nothing."
            ),
        )
    )
    session_adopt: Annotated[bool, kinds.flag()] = Field(
        default=False,
        validation_alias="SARK_SESSION_ADOPT",
        description=(
            "Whether the token of a trusted outside issuer begins a session when it is first seen. "
            "Otherwise such tokens are refused, as they have none."
        ),
    )
    access_token_ttl: Annotated[int, kinds.whole(10, 86_400, "seconds")] = Field(
        default=900,
        validation_alias="SARK_ACCESS_TOKEN_TTL",
        description="Life of an access token.",
    )
    refresh_grace: Annotated[int, kinds.whole(0, 300, "seconds")] = Field(
        default=10,
        validation_alias="SARK_REFRESH_GRACE",
        description=(
            "How long a refresh token that was traded gives the same successor again, for a client "
            "that lost the answer; later its use ends the session."
        ),
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

    @property
    def effective_wait_replicas(self) -> int:
        """Replicas that must confirm an invalidation, as set or implied by the topology."""
        if self.wait_replicas is not None:
            return self.wait_replicas
        return 1 if self.topology == "sentinel" else 0

    @property
    def cluster_tags(self) -> bool:
        """Whether key names carry hash tags, which keep together what one script touches."""
        return self.topology == "cluster"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read arguments, then the declared variables; no file."""
        del env_settings, dotenv_settings, file_secret_settings
        return init_settings, EnvironmentSource(settings_cls)

    @model_validator(mode="wrap")
    @classmethod
    def _validate(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Imply the topology, check the rules between settings, and put errors in one line each."""
        try:
            settings = handler(_imply_topology(values))
            lines = conflicts(settings)
        except ValidationError as error:
            lines = [_line(detail) for detail in error.errors(include_url=False)]
        # Raised outside ``except``: the original holds all input, secrets included, and would
        # otherwise travel along as the context of this error.
        if lines:
            raise SettingsError("\n".join(sorted(lines)))
        return settings


def kind_of(field: FieldInfo) -> Kind:
    """Return what a field takes."""
    return next(item for item in field.metadata if isinstance(item, Kind))


def _imply_topology(values: Any) -> Any:
    if not isinstance(values, dict) or {"topology", "SARK_TOPOLOGY"} & values.keys():
        return values
    implied = any(values.get(key) for key in ("valkey_sentinel_hosts", "VALKEY_SENTINEL_HOSTS"))
    return {**values, "SARK_TOPOLOGY": "sentinel"} if implied else values


def _line(detail: ErrorDetails) -> str:
    """Put pydantic's account of one wrong value into a line that can be shown."""
    key = str(detail["loc"][0])
    for name, field in Settings.model_fields.items():
        if key in (name, variable_of(field)):
            kind = kind_of(field)
            refused = kind.refused(detail["input"])
            return f"{variable_of(field)}: got {refused}, expected {kind.expected}"
    return f"{key}: no such setting"

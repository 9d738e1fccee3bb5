"""What decides."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field, SecretStr

from sark.settings import _kinds as kinds

__all__ = ["PolicySettings"]


class PolicySettings(BaseModel):
    """What decides."""

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

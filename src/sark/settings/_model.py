"""All settings of one process together; each stands in its group."""

from __future__ import annotations

from typing import Any, Self

from pydantic import ModelWrapValidatorHandler, SecretStr, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from sark.errors import SettingsError
from sark.settings._environment import EnvironmentSource, variable_of
from sark.settings._kinds import Kind
from sark.settings._rules import conflicts
from sark.settings._sinks import SinkAddress, audit_file
from sark.settings.groups import (
    AuditSettings,
    BreakerSettings,
    CacheSettings,
    FileSettings,
    ForwarderSettings,
    LimitSettings,
    PolicySettings,
    ServiceSettings,
    SessionSettings,
    SinkSettings,
    SpillSettings,
    ValkeySettings,
)


class Settings(
    BaseSettings,
    ValkeySettings,
    ServiceSettings,
    FileSettings,
    PolicySettings,
    CacheSettings,
    SessionSettings,
    LimitSettings,
    AuditSettings,
    SpillSettings,
    ForwarderSettings,
    SinkSettings,
    BreakerSettings,
):
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

    @property
    def sinks(self) -> tuple[SinkAddress, ...]:
        """Where audit events go; a file in the data folder unless the setting says otherwise."""
        return self.siem_sinks or (audit_file(self.data_dir),)

    def siem_token(self, sink: str) -> SecretStr | None:
        """Return the credential of a sink, if it has one."""
        return (self.siem_tokens or {}).get(sink)

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
            if kind.explains:
                refused += f" ({detail['ctx']['error']})"
            return f"{variable_of(field)}: got {refused}, expected {kind.expected}"
    return f"{key}: no such setting"

"""Where the settings read variables: the process's environment, or a mapping in its place."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import PydanticBaseSettingsSource

ENVIRON: ContextVar[Mapping[str, str] | None] = ContextVar("ENVIRON", default=None)
"""Read instead of ``os.environ`` while ``load`` runs; pydantic-settings has no parameter for it."""


class EnvironmentSource(PydanticBaseSettingsSource):
    """Reads exactly the declared variables.

    The source that comes with pydantic-settings also takes a field's own name, so a variable
    ``host`` or ``port`` of somebody else would count, and it decodes lists as JSON.
    """

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        del field_name
        environ = ENVIRON.get()
        variable = variable_of(field)
        return (os.environ if environ is None else environ).get(variable), variable, False

    def __call__(self) -> dict[str, Any]:
        found = (
            self.get_field_value(field, name)
            for name, field in self.settings_cls.model_fields.items()
        )
        # An empty string means unset, as compose files and CI systems write it.
        return {variable: value for value, variable, _ in found if value}


def variable_of(field: FieldInfo) -> str:
    """Return the environment variable of a field."""
    return str(field.validation_alias)

"""Where the settings read variables: the process's environment, or a mapping in its place."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import PydanticBaseSettingsSource

ENVIRON: ContextVar[Mapping[str, str] | None] = ContextVar("ENVIRON", default=None)
"""Read instead of ``os.environ`` while ``load`` runs; pydantic-settings has no parameter for it."""


NAME = "{NAME}"
"""Stands in a variable for the name of a sink, in capitals."""


class EnvironmentSource(PydanticBaseSettingsSource):
    """Reads exactly the declared variables.

    The source that comes with pydantic-settings also takes a field's own name, so a variable
    ``host`` or ``port`` of somebody else would count, and it decodes lists as JSON.
    """

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        del field_name
        environ = ENVIRON.get()
        return given(field, os.environ if environ is None else environ), variable_of(field), False

    def __call__(self) -> dict[str, Any]:
        found = (
            self.get_field_value(field, name)
            for name, field in self.settings_cls.model_fields.items()
        )
        return {variable: value for value, variable, _ in found if value}


def variable_of(field: FieldInfo) -> str:
    """Return the environment variable of a field; one with ``{NAME}`` in it stands for many."""
    return str(field.validation_alias)


def given(field: FieldInfo, environ: Mapping[str, str]) -> str | dict[str, str] | None:
    """Return what the environment says of a field; by name if its variable stands for many.

    An empty string means unset, as compose files and CI systems write it.
    """
    variable = variable_of(field)
    if NAME not in variable:
        return environ.get(variable) or None
    matches = ((_members(variable).fullmatch(other), other) for other in environ)
    return {
        match[1].lower(): environ[other] for match, other in matches if match and environ[other]
    }


def is_member(field: FieldInfo, variable: str) -> bool:
    """Whether a variable is the field's, or one of those that the field's stands for."""
    own = variable_of(field)
    return variable == own if NAME not in own else bool(_members(own).fullmatch(variable))


def _members(variable: str) -> re.Pattern[str]:
    head, tail = map(re.escape, variable.split(NAME))
    return re.compile(f"{head}([A-Z][A-Z0-9_]*){tail}")

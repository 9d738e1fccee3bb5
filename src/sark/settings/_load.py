"""Loading the settings of a process."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping

from sark.errors import SettingsError
from sark.settings._environment import ENVIRON, is_member, variable_of
from sark.settings._model import Settings

PREFIX = "SARK_"

READ_ELSEWHERE: frozenset[str] = frozenset()
"""Variables with our prefix that tests or tools read themselves, so that they don't count as typos.

Whoever adds one says here who reads it.
"""


def load(environ: Mapping[str, str] | None = None) -> Settings:
    """Read and validate all settings.

    Args:
        environ: The variables; the process's own by default. Empty ones count as unset.

    Returns:
        The settings.

    Raises:
        SettingsError: If a value isn't accepted or a variable with our prefix is unknown. One
            sorted line for each, naming the variable, what came and what is accepted. No line
            holds a secret.
    """
    environ = os.environ if environ is None else environ
    lines = _unknown(environ)
    token = ENVIRON.set(environ)
    try:
        settings = Settings()
    except SettingsError as error:
        lines += str(error).split("\n")
    finally:
        ENVIRON.reset(token)
    if lines:
        raise SettingsError("\n".join(sorted(lines)))
    return settings


def _unknown(environ: Mapping[str, str]) -> list[str]:
    """Find variables that nobody reads: a typo must not leave a default in force silently.

    The prefix ``VALKEY_`` is shared with other tools, so only our own is watched.
    """
    fields = Settings.model_fields.values()
    ours = sorted(name for name in map(variable_of, fields) if name.startswith(PREFIX))
    return [
        # The value stays out of it: behind a mistyped name there may be a token.
        f"{_printable(variable)}: unknown variable, the closest known one is "
        f"{difflib.get_close_matches(variable, ours, n=1, cutoff=0.0)[0]}"
        for variable, value in environ.items()
        if variable.startswith(PREFIX)
        and value
        and variable not in READ_ELSEWHERE
        and not any(is_member(field, variable) for field in fields)
    ]


def _printable(variable: str) -> str:
    return variable if variable.isprintable() else ascii(variable)

"""The formats by their names."""

from __future__ import annotations

from typing import Final

from sark.errors import ConfigurationError
from sark.siem.formats.base import Format
from sark.siem.formats.cef import Cef
from sark.siem.formats.ecs import Ecs
from sark.siem.formats.ocsf import Ocsf
from sark.siem.formats.sark import Sark

__all__ = ["FORMAT_NAMES", "format_of"]

_FORMATS: Final[dict[str, Format]] = {form.name: form for form in (Sark(), Ocsf(), Ecs(), Cef())}

FORMAT_NAMES: Final = tuple(_FORMATS)


def format_of(name: str) -> Format:
    """Find a format.

    Raises:
        ConfigurationError: There is none of this name.
    """
    found = _FORMATS.get(name)
    if found is None:
        known = ", ".join(FORMAT_NAMES)
        raise ConfigurationError(f"format: got {name[:64]!r}, expected one of: {known}")
    return found

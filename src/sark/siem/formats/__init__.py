"""The forms in which events reach a SIEM: one file for each."""

from sark.siem.formats.base import Format
from sark.siem.formats.registry import FORMAT_NAMES, format_of

__all__ = ["FORMAT_NAMES", "Format", "format_of"]

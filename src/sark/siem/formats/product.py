"""What a SIEM knows this product by."""

from __future__ import annotations

from importlib.metadata import version
from typing import Final

__all__ = ["PRODUCT", "VENDOR", "VERSION"]

VENDOR: Final = "SARK"
PRODUCT: Final = "SARK"
VERSION: Final = version("sark")

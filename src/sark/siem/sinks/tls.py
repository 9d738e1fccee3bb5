"""TLS towards receivers: whom we trust, and what we show."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sark.errors import ConfigurationError, SinkError
from sark.siem.sinks.options import Option, file

__all__ = ["TLS_OPTIONS", "check_tls_options", "client_context"]

TLS_OPTIONS: Mapping[str, Option] = {"ca": file(), "cert": file(), "key": file()}
"""Authorities to trust instead of the system's, and our certificate with its key; PEM files."""


def check_tls_options(options: Mapping[str, Any], *, tls: bool) -> None:
    """Check the options of ``TLS_OPTIONS`` against each other.

    Args:
        options: A sink's options.
        tls: Whether its scheme uses TLS.

    Raises:
        ConfigurationError: They are of no use, or one of a pair is missing.
    """
    given = [name for name in TLS_OPTIONS if options[name] is not None]
    if given and not tls:
        raise ConfigurationError(f"got the option {given[0]!r}, expected a scheme with TLS")
    if (options["cert"] is None) != (options["key"] is None):
        raise ConfigurationError("expected the options 'cert' and 'key' together")


def client_context(ca: Path | None, cert: Path | None, key: Path | None) -> ssl.SSLContext:
    """Read the certificates. Blocks.

    Raises:
        SinkError: A file is missing or unusable.
    """
    try:
        context = ssl.create_default_context(cafile=ca)
        if cert is not None:
            # An encrypted key would be asked for on the terminal.
            context.load_cert_chain(cert, key, password="")
    except (OSError, ValueError) as error:
        paths = ", ".join(str(path) for path in (ca, cert, key) if path is not None)
        reason = error.strerror if isinstance(error, OSError) else None
        raise SinkError(
            f"certificates cannot be read from {paths}: {reason or 'not PEM'}"
        ) from None
    return context

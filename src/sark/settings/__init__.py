"""Every environment variable that SARK reads: name, type, unit, default and validation.

This package is the only place that reads them. ``load`` gives the validated, frozen ``Settings``
or raises ``SettingsError`` with one line for each variable that is wrong; ``describe`` and
``render_markdown`` tell about the same fields, so the documentation can't drift from the code::

    settings = load()
    check_exposure(settings)

Code that needs the password inside a ``ServerUrl`` or the text of a ``SecretStr`` asks for it by
``get_secret_value()``; no other way of showing them gives it away.
"""

from __future__ import annotations

from sark.settings._choices import (
    AuditOverflow,
    CacheKey,
    LegacyHeaders,
    LogFormat,
    LogLevel,
    ProxyHeader,
    SentHeaders,
    SessionBind,
    SessionCapPolicy,
    SpillSync,
    TokenAlgorithm,
    Topology,
)
from sark.settings._kinds import HostPort, TrustedIssuer, TrustedNetwork
from sark.settings._load import READ_ELSEWHERE, load
from sark.settings._model import Settings
from sark.settings._rows import SettingRow, Source, describe, render_markdown
from sark.settings._rules import check_exposure
from sark.settings._sinks import SinkAddress
from sark.settings._urls import ServerUrl, is_loopback, mask_url

__all__ = [
    "READ_ELSEWHERE",
    "AuditOverflow",
    "CacheKey",
    "HostPort",
    "LegacyHeaders",
    "LogFormat",
    "LogLevel",
    "ProxyHeader",
    "SentHeaders",
    "ServerUrl",
    "SessionBind",
    "SessionCapPolicy",
    "SettingRow",
    "Settings",
    "SinkAddress",
    "Source",
    "SpillSync",
    "TokenAlgorithm",
    "Topology",
    "TrustedIssuer",
    "TrustedNetwork",
    "check_exposure",
    "describe",
    "is_loopback",
    "load",
    "mask_url",
    "render_markdown",
]

"""The words that some settings choose among."""

from __future__ import annotations

from typing import Literal

__all__ = [
    "AuditOverflow",
    "CacheKey",
    "LegacyHeaders",
    "LimitsWithoutValkey",
    "LogFormat",
    "LogLevel",
    "ProxyHeader",
    "SentHeaders",
    "SessionBind",
    "SessionCapPolicy",
    "SpillSync",
    "TokenAlgorithm",
    "Topology",
]

AuditOverflow = Literal["refuse", "drop_oldest"]
CacheKey = Literal["full", "compact"]
LegacyHeaders = Literal["off", "seconds", "epoch"]
LimitsWithoutValkey = Literal["local", "open", "closed"]
LogFormat = Literal["json", "console", "auto"]
LogLevel = Literal["debug", "info", "warning", "error"]
ProxyHeader = Literal["x-forwarded-for", "forwarded"]
SentHeaders = Literal["always", "refused", "off"]
SessionBind = Literal["none", "network", "user_agent", "both"]
SessionCapPolicy = Literal["end_oldest", "refuse"]
SpillSync = Literal["full", "normal"]
TokenAlgorithm = Literal["EdDSA", "RS256"]
Topology = Literal["single", "sentinel", "cluster"]

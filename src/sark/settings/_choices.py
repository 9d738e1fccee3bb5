"""The words that some settings choose among."""

from __future__ import annotations

from typing import Literal

__all__ = [
    "CacheKey",
    "LegacyHeaders",
    "LimitsWithoutValkey",
    "LogFormat",
    "LogLevel",
    "ProxyHeader",
    "SentHeaders",
    "SessionBind",
    "SessionCapPolicy",
    "TokenAlgorithm",
    "Topology",
]

CacheKey = Literal["full", "compact"]
LegacyHeaders = Literal["off", "seconds", "epoch"]
LimitsWithoutValkey = Literal["local", "open", "closed"]
LogFormat = Literal["json", "console", "auto"]
LogLevel = Literal["debug", "info", "warning", "error"]
ProxyHeader = Literal["x-forwarded-for", "forwarded"]
SentHeaders = Literal["always", "refused", "off"]
SessionBind = Literal["none", "network", "user_agent", "both"]
SessionCapPolicy = Literal["end_oldest", "refuse"]
TokenAlgorithm = Literal["EdDSA", "RS256"]
Topology = Literal["single", "sentinel", "cluster"]

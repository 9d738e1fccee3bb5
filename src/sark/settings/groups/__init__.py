"""The settings by what they are about; ``GROUPS`` is the order of the reference."""

from __future__ import annotations

from pydantic import BaseModel

from sark.settings.groups.audit import AuditSettings
from sark.settings.groups.breaker import BreakerSettings
from sark.settings.groups.cache import CacheSettings
from sark.settings.groups.files import FileSettings
from sark.settings.groups.forwarder import ForwarderSettings
from sark.settings.groups.limits import LimitSettings
from sark.settings.groups.policies import PolicySettings
from sark.settings.groups.service import ServiceSettings
from sark.settings.groups.sessions import SessionSettings
from sark.settings.groups.sinks import SinkSettings
from sark.settings.groups.spill import SpillSettings
from sark.settings.groups.valkey import ValkeySettings

__all__ = [
    "GROUPS",
    "AuditSettings",
    "BreakerSettings",
    "CacheSettings",
    "FileSettings",
    "ForwarderSettings",
    "LimitSettings",
    "PolicySettings",
    "ServiceSettings",
    "SessionSettings",
    "SinkSettings",
    "SpillSettings",
    "ValkeySettings",
]

GROUPS: dict[str, type[BaseModel]] = {
    "Valkey": ValkeySettings,
    "Service": ServiceSettings,
    "Files": FileSettings,
    "Policies": PolicySettings,
    "Decision cache": CacheSettings,
    "Sessions and tokens": SessionSettings,
    "Rate limits": LimitSettings,
    "Audit": AuditSettings,
    "Spill": SpillSettings,
    "Forwarding": ForwarderSettings,
    "Breakers of the sinks": BreakerSettings,
    "Sinks": SinkSettings,
}

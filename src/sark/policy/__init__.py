"""The policy decision cache, its generations, and the engines that decide."""

from sark.policy.cache import PolicyCache
from sark.policy.decision import Decision
from sark.policy.found import UNKNOWN, CachedDecision, Found
from sark.policy.question import JsonValue, Question
from sark.policy.sensitivity import Sensitivity, TtlTiers

__all__ = [
    "UNKNOWN",
    "CachedDecision",
    "Decision",
    "Found",
    "JsonValue",
    "PolicyCache",
    "Question",
    "Sensitivity",
    "TtlTiers",
]

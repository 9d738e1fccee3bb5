"""Policy engines behind one protocol."""

from sark.policy.evaluators.base import Evaluator, decision_from_json
from sark.policy.evaluators.embedded_rego import EmbeddedRego

__all__ = ["EmbeddedRego", "Evaluator", "decision_from_json"]

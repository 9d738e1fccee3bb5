"""Policy engines behind one protocol."""

from sark.policy.evaluators.base import Evaluation, Evaluator, decision_from_json
from sark.policy.evaluators.embedded_rego import EmbeddedRego

__all__ = ["EmbeddedRego", "Evaluation", "Evaluator", "decision_from_json"]

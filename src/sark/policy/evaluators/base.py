"""What a policy engine has to offer. One small protocol; adding an engine touches nothing else."""

from __future__ import annotations

from typing import Protocol

import msgspec

from sark.errors import EvaluationError
from sark.policy.decision import Decision

__all__ = ["Evaluator", "decision_from_json"]


class Evaluator(Protocol):
    """Evaluates policies by name."""

    @property
    def revision(self) -> str:
        """Identity of the policies and data in force; part of every stamp."""
        ...

    async def evaluate(self, policy: str, input_json: bytes) -> Decision | None:
        """Evaluate ``data.sark.<policy>.decision``.

        Args:
            policy: Name of the policy.
            input_json: The ``input`` document.

        Returns:
            The decision; None when it is undefined, which denies and is never cached.

        Raises:
            EvaluationError: The engine failed or the decision has the wrong form.
        """
        ...

    async def close(self) -> None:
        """Release what the engine holds."""
        ...


_decode = msgspec.json.Decoder(Decision).decode


def decision_from_json(policy: str, document: bytes | str) -> Decision:
    """Read a decision object as a policy returns it; members that are not ours are ignored.

    Raises:
        EvaluationError: ``allow`` is missing, or a member has the wrong type.
    """
    try:
        decision = _decode(document)
    except msgspec.MsgspecError as error:
        raise EvaluationError(f"data.sark.{policy}.decision: {error}") from None
    if decision.ttl is not None and decision.ttl <= 0:
        # A ttl of zero says: not even for a second.
        return Decision(decision.allow, decision.reason, None, cacheable=False)
    return decision

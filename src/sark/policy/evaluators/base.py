"""What a policy engine has to offer. One small protocol; adding an engine touches nothing else."""

from __future__ import annotations

import math
from typing import Protocol

import msgspec

from sark.errors import EvaluationError
from sark.policy.decision import Decision

__all__ = ["Evaluation", "Evaluator", "decision_from_json"]


class Evaluation(msgspec.Struct, frozen=True):
    """What one evaluation gave.

    Attributes:
        decision: The decision; None when it is undefined, which denies and is never cached.
        revision: The policies and data that it was evaluated under.
        decision_id: The engine's own id of it, under which its log has it; empty without one.
    """

    decision: Decision | None
    revision: str
    decision_id: str = ""


class Evaluator(Protocol):
    """Evaluates policies by name."""

    @property
    def description(self) -> str:
        """Which engine this is and where its policies come from, without credentials."""
        ...

    @property
    def revision(self) -> str:
        """Identity of the policies and data in force; part of every stamp."""
        ...

    async def evaluate(self, policy: str, input_json: bytes) -> Evaluation:
        """Evaluate ``data.sark.<policy>.decision``.

        Args:
            policy: Name of the policy.
            input_json: The ``input`` document.

        Returns:
            The decision, or that there is none, with the revision that it was made under.

        Raises:
            EvaluationError: The engine failed or the decision has the wrong form.
        """
        ...

    async def ready(self) -> str | None:
        """Tell whether evaluations can be expected to succeed; None, or what is wrong."""
        ...

    async def close(self) -> None:
        """Release what the engine holds."""
        ...


class _Document(msgspec.Struct):
    allow: bool
    reason: str = ""
    ttl: int | float | None = None
    cacheable: bool = True


_decode = msgspec.json.Decoder(_Document).decode


def decision_from_json(policy: str, document: bytes | str) -> Decision:
    """Read a decision object as a policy returns it; members that are not ours are ignored.

    A ``ttl`` is rounded down to whole seconds; one below a second means not cacheable.

    Raises:
        EvaluationError: ``allow`` is missing, or a member has the wrong type.
    """
    try:
        found = _decode(document)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise EvaluationError(f"data.sark.{policy}.decision: {error}") from None
    if found.ttl is None:
        return Decision(found.allow, found.reason, None, found.cacheable)
    ttl = math.floor(found.ttl)
    if ttl < 1:
        return Decision(found.allow, found.reason, None, cacheable=False)
    return Decision(found.allow, found.reason, ttl, found.cacheable)

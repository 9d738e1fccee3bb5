"""The embedded Rego engine: Microsoft's regorus, for development and tests.

A subset of Rego, for which OPA is the reference: no JWT and crypto builtins, strict errors where a
builtin gets the wrong type, lines of at most 1,024 columns. It evaluates on the calling thread,
holds the GIL and has no time limit, so a policy that loops for long holds up the process; OPA over
HTTP is the evaluator for production.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from sark.policy.evaluators.base import Evaluation, decision_from_json
from sark.policy.evaluators.rego_check import read_checked
from sark.policy.evaluators.rego_program import RegoProgram
from sark.policy.evaluators.rego_source import read_source

__all__ = ["EmbeddedRego"]

# Up to here loading takes a few milliseconds, and starting a process a second.
LOADED_HERE_BYTES = 2**18


class EmbeddedRego:
    """Evaluates policies with regorus.

    Args:
        directory: Where the ``.rego`` files and their data are.
        policies: Names of the policies to serve; each must define ``decision``.

    Raises:
        PolicyError: Something does not load; the message names file, line and reason.
        ConfigurationError: The engine is not installed.
    """

    def __init__(self, directory: Path, policies: tuple[str, ...]) -> None:
        self._directory = directory
        self._policies = policies
        self._program = RegoProgram(read_source(directory), policies)
        self.revision = self._program.source.revision
        """Digest of the policy directory. No property: each near hit reads it."""

    @property
    def description(self) -> str:
        """Which engine this is."""
        return f"embedded Rego, {self._directory}"

    async def evaluate(self, policy: str, input_json: bytes) -> Evaluation:
        """Evaluate one policy; see ``Evaluator``."""
        program = self._program
        document = program.evaluate(policy, input_json)
        decision = None if document is None else decision_from_json(policy, document)
        return Evaluation(decision, program.source.revision)

    async def reload(self) -> bool:
        """Read the directory again; returns whether anything changed.

        What was in force stays so until the new policies have been loaded and checked. Large ones
        are read and checked by another process, and loaded in turns with what else the event loop
        has to do; docs/policies.md says what pauses are left.

        Raises:
            PolicyError: The new policies don't load; the old ones stay.
            OSError: The directory changed while it was read; likewise.
        """
        if await asyncio.to_thread(_size, self._directory) <= LOADED_HERE_BYTES:
            source = await asyncio.to_thread(read_source, self._directory)
        else:
            source = await read_checked(self._directory, self._policies)
        if source.revision == self.revision:
            return False
        self._program = await RegoProgram.in_turns(source, self._policies)
        self.revision = source.revision
        return True

    async def ready(self) -> str | None:
        """Nothing can be wrong: what does not load is refused at once."""
        return None

    async def close(self) -> None:
        """Nothing to release: engines end with their threads."""


def _size(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())

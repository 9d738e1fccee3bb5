"""What to do about scripts that the server has forgotten: decided here, sent elsewhere.

A restart, a flush or a failover empties the server's script cache. ``EVALSHA`` then answers
NOSCRIPT, which says that nothing ran, so exactly those calls can be sent again behind their
scripts' texts. The driver's pipelines would ask ``SCRIPT EXISTS`` before each run instead; this
costs a round trip only when a script is in fact missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from valkey import exceptions as driver

from sark.store.exchange import Command, ScriptCall
from sark.store.scripts import Script

__all__ = ["Repeat", "to_repeat"]

# Behind a call that had not run these waited for nothing, so they are repeated with it.
WAITS = frozenset({"WAIT", "WAITAOF"})


class Repeat:
    """What is sent again after a first attempt.

    Args:
        commands: Those of the first attempt that are repeated, by their place in it.

    Attributes:
        again: What to send: the texts of the scripts, then the commands.
    """

    def __init__(self, commands: dict[int, Command | ScriptCall]) -> None:
        self._commands = commands
        calls = (call for call in commands.values() if isinstance(call, ScriptCall))
        self._scripts = {call.script.sha: call.script for call in calls}
        loads: list[Command] = [("SCRIPT", "LOAD", s.text) for s in self._scripts.values()]
        self.again: list[Command | ScriptCall] = [*loads, *commands.values()]

    def merge(self, replies: list[Any], again: Sequence[Any]) -> list[Script]:
        """Put the new replies in the places of the old ones.

        Args:
            replies: Of the first attempt; changed in place.
            again: One for each command of ``again``.

        Returns:
            The scripts that the server now knows.
        """
        loaded = dict(zip(self._scripts, again, strict=False))
        answers = again[len(self._scripts) :]
        for (place, command), answer in zip(self._commands.items(), answers, strict=True):
            # A script that does not load says why; its call only said once more NOSCRIPT.
            refusal = loaded[command.script.sha] if isinstance(command, ScriptCall) else None
            replies[place] = refusal if isinstance(refusal, Exception) else answer
        return [
            self._scripts[sha]
            for sha, answer in loaded.items()
            if not isinstance(answer, Exception)
        ]


def to_repeat(commands: Sequence[Command | ScriptCall], replies: Sequence[Any]) -> Repeat | None:
    """Find the script calls that did not run; None when there are none.

    Args:
        commands: What was sent.
        replies: One for each.
    """
    missing = {
        place
        for place, (command, reply) in enumerate(zip(commands, replies, strict=True))
        if type(reply) is driver.NoScriptError and isinstance(command, ScriptCall)
    }
    if not missing:
        return None
    first = min(missing)
    return Repeat(
        {
            place: command
            for place, command in enumerate(commands)
            if place in missing or (place > first and command[0] in WAITS)
        }
    )

"""Which calls need a connection of their own, and which can share one with others.

A connection answers in order, so whatever blocks it, or changes what it is, does so to everyone
who shares it. Scripts and all other commands share one.
"""

from __future__ import annotations

from collections.abc import Sequence

from sark.store.exchange import Command, ScriptCall

__all__ = ["BULK_BYTES", "needs_own_connection"]

# A larger request is sent on a connection of its own. The server takes turns between connections,
# but on a shared one the small calls behind it would wait for it and for its answer: beside four
# tasks that read 1,000 decisions at a time, a small call took 8 ms on the same connection and
# 1.4 ms on another; beside a single one that reads 200 (17 KB) it made no difference.
BULK_BYTES = 32_768

_BLOCKING = (
    "BLMOVE BLMPOP BLPOP BRPOP BRPOPLPUSH BZMPOP BZPOPMAX BZPOPMIN WAIT WAITAOF XREAD XREADGROUP"
)
_CHANGING = (
    "AUTH CLIENT DISCARD EXEC HELLO MONITOR MULTI PSUBSCRIBE PSYNC PUNSUBSCRIBE QUIT READONLY "
    "READWRITE RESET SELECT SSUBSCRIBE SUBSCRIBE SUNSUBSCRIBE SYNC UNSUBSCRIBE UNWATCH WATCH"
)
_OWN = frozenset(f"{_BLOCKING} {_CHANGING}".split())


def needs_own_connection(commands: Sequence[Command | ScriptCall]) -> bool:
    """Tell whether a call may not share its connection.

    Args:
        commands: Of the call. A whole transaction, from ``MULTI`` to ``EXEC``, changes nothing for
            those behind it.
    """
    if len(commands) > 1 and commands[0] == ("MULTI",) and commands[-1] == ("EXEC",):
        commands = commands[1:-1]
    for command in commands:
        if isinstance(command, ScriptCall):
            continue
        name = command[0]
        if isinstance(name, bytes):
            name = name.decode("ascii", "replace")
        # The driver's packer takes the name as it is, so it can't hide two words.
        if str(name).upper() in _OWN:
            return True
    return False

"""Which calls may share a connection."""

from __future__ import annotations

import pytest

from sark.store import Script, ScriptCall
from sark.store.exchange import Command
from sark.store.routing import needs_own_connection

CALL = ScriptCall(Script("s", "return 1"), ["MULTI"], ["BLPOP"])
GET: Command = ("GET", "WAIT")


@pytest.mark.parametrize(
    "commands",
    [
        [GET],
        [CALL],
        [GET, CALL, ("EVALSHA", "0" * 40, 0), ("SCRIPT", "FLUSH"), ("PUBLISH", "c", "m")],
        [("MULTI",), GET, GET, ("EXEC",)],
        [("MULTI",), ("EXEC",)],
        [(b"GET", "key")],
    ],
)
def test_ordinary_calls_and_whole_transactions_share(commands: list[Command | ScriptCall]) -> None:
    assert not needs_own_connection(commands)


@pytest.mark.parametrize(
    "commands",
    [
        [("BLPOP", "key", 0)],
        [("blpop", "key", 0)],
        [(b"BLPOP", "key", 0)],
        [CALL, ("WAIT", 1, 100)],
        [CALL, ("WAITAOF", 1, 0, 100)],
        [("XREAD", "BLOCK", 0, "STREAMS", "s", "$")],
        [("SUBSCRIBE", "channel")],
        [("CLIENT", "REPLY", "OFF")],
        [("SELECT", 1)],
        [("WATCH", "key"), GET],
        # Parts of a transaction would make one of whatever others send.
        [("MULTI",)],
        [("EXEC",)],
        [("MULTI",), GET],
        [GET, ("EXEC",)],
        [("MULTI",), ("EXEC",), ("MULTI",), GET, ("EXEC",)],
        [("MULTI",), GET, ("BLPOP", "key", 0), ("EXEC",)],
    ],
)
def test_what_blocks_or_changes_a_connection_has_its_own(
    commands: list[Command | ScriptCall],
) -> None:
    assert needs_own_connection(commands)

"""Commands and replies on a connection: what is written, what is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from libvalkey import pack_command
from valkey import exceptions as driver

from sark.errors import StoreCommandError
from sark.store.connection import StoreConnection
from sark.store.scripts import Script

__all__ = [
    "Argument",
    "Command",
    "Reply",
    "ScriptCall",
    "command_error",
    "pack",
    "talk",
    "value_of",
]

Argument = str | bytes | int | float
Command = tuple[Argument, ...]


class ScriptCall(NamedTuple):
    """A script with its keys and arguments, as one command of a pipeline."""

    script: Script
    keys: Sequence[str]
    args: Sequence[Argument] = ()

    def command(self) -> Command:
        """Spell the call as ``EVALSHA``."""
        return ("EVALSHA", self.script.sha, len(self.keys), *self.keys, *self.args)


class Reply(NamedTuple):
    """What the server answered, and which run of it.

    Attributes:
        value: The reply, bytes undecoded.
        run_id: The server process that answered; another one may have lost the last writes.
    """

    value: Any
    run_id: str


def pack(command: Command | ScriptCall) -> bytes:
    """Encode a command as it travels; ``TypeError`` for an argument that has no bytes."""
    packed: bytes = pack_command(command.command() if isinstance(command, ScriptCall) else command)
    return packed


async def talk(connection: StoreConnection, packed: Sequence[bytes]) -> list[Any]:
    """Write all commands, then read as many replies; an error reply is returned, not raised."""
    await connection.send_packed_command(packed, check_health=False)
    replies: list[Any] = []
    for _ in packed:
        try:
            replies.append(await connection.read_response())
        except driver.ResponseError as error:
            replies.append(error)
    return replies


def command_error(error: Exception, address: str) -> StoreCommandError:
    """Turn the server's error reply into an error of ours."""
    return StoreCommandError(f"{address}: {error}")


def value_of(reply: Any, address: str) -> Any:
    """Take a reply's value; raises it when it is an error."""
    if isinstance(reply, Exception):
        raise command_error(reply, address) from reply
    return reply
